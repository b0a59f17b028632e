//! The one place where settings are made: the container's network namespace.
//!
//! `add` makes a plan true or leaves everything as it was, `check` compares, and `restore`
//! gives back the `originals` that ADD kept in the `store`.

mod add;
mod check;
mod hand_over;
mod originals;
mod restore;
mod store;

pub(crate) use add::{add, set_all};
pub(crate) use check::check;
pub(crate) use hand_over::give_to_go;
pub(crate) use restore::restore;
pub(crate) use store::{Store, all_originals, forget_stale};
