//! What the rules of a host make of a packet, as far as one can tell by reading them.
//!
//! `packet` is what is known of it, `registers` what the kernel would have in its registers, `rule`
//! one rule, `xtables` the matches of iptables within it, and `walk` the way through the chains.
//! What cannot be told is never guessed: a condition that is not understood makes an outcome a
//! possible one.

mod packet;
mod registers;
mod rule;
mod walk;
mod xtables;

pub(super) use packet::Packet;
pub(super) use walk::{Decision, Fate, Rules};
