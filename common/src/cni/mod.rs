//! The CNI side: what a runtime and a plugin say to each other, and whose things are.
//!
//! Stands on [`crate::kernel`], which knows nothing of it.

pub mod attachment;
pub mod entry;
pub mod explanation;
pub mod failure;
pub mod hand_over;
mod help;
pub mod holder;
pub mod log;
pub mod netns;
pub mod plugin;
pub mod protocol;
pub mod state;

pub use attachment::{Attachment, OwnerTag, Stale};
pub use explanation::{Explanation, Step, Surroundings};
pub use failure::Failure;
pub use holder::{Backend, Finding, Holder};
pub use plugin::{AttachmentRequest, GcRequest, Plugin, StatusRequest, run};
