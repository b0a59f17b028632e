//! What the Go plugin left for the same attachment, so that a host can change over while its
//! containers run: found, judged and removed; and made where an attachment goes back to it.

mod check;
mod form;
mod garbage;
pub(crate) mod hand_over;
mod leftovers;

pub(crate) use check::check;
pub(crate) use form::{HANDLE, is_tbf_of_go};
pub(crate) use garbage::collect_garbage;
pub(crate) use leftovers::Leftovers;
