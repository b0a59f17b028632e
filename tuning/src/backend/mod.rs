//! The one place where settings are made: the container's network namespace.
//!
//! `add` makes a plan true or leaves everything as it was, `check` compares, and `restore`
//! gives back the `originals` that ADD kept.

mod add;
mod check;
mod originals;
mod restore;

pub(crate) use add::add;
pub(crate) use check::check;
pub(crate) use originals::{Store, all_originals, forget_stale};
pub(crate) use restore::restore;
