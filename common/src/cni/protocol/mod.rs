//! The CNI protocol, plugin side: environment, stdin, versions, errors and results.
//!
//! Nothing here does I/O: [`run`](super::run) reads stdin and writes stdout.

pub mod args;
pub mod config;
pub mod environment;
pub mod error;
pub mod fields;
pub mod json;
pub mod result;
pub mod version;

pub use config::{NetworkConfig, ValidAttachment};
pub use environment::{Command, Environment};
pub use error::{CniError, ErrorCode};
pub use fields::{Field, Fields};
pub use result::CniResult;
pub use version::CniVersion;
