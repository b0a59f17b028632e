//! Traffic control: qdiscs and filters on the host's end of the veth, and IFBs that it redirects to.
//!
//! Without subnets, what goes into the container is held by a TBF that is the root qdisc of the host's
//! end. What comes out of it, and everything that only subnets of are limited, is redirected to an
//! IFB that has the TBF.

mod add;
mod before;
mod check;
mod clsact;
mod garbage;
mod hand_over;
mod ifb;
mod layout;
mod limit;
mod removal;

pub(crate) use add::add;
pub(crate) use check::check;
pub(crate) use garbage::collect_garbage;
pub(crate) use hand_over::give_to_go;
pub(crate) use layout::{IFB, is_our_tbf, limits_ingress, redirected_to};
pub(crate) use limit::queue_name;
pub(crate) use removal::remove;
