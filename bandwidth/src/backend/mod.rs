//! Where a plan is carried out. Linux limits a veth's traffic in one place, so there is nothing to
//! choose.

pub(crate) mod tc;
