//! What portmap does to real packets, and whose a mapping is.

mod addresses;
mod check;
mod conditions;
mod conntrack;
mod failure;
mod odd_input;
mod ownership;
mod security;
mod traffic;
