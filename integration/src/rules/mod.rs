//! What the rules of a host make of a packet, as far as one can tell by reading them.
//!
//! `packet` is what is known of it, `registers` what the kernel would have in its registers, `rule`
//! one rule, `xtables` the matches of iptables within it, and `walk` the way through the chains.
//! `words` tells rules to people, and `owner` whose they are.
//! What cannot be told is never guessed: a condition that is not understood makes an outcome a
//! possible one.

mod owner;
mod packet;
mod registers;
mod rule;
pub(crate) mod verdict;
mod walk;
mod words;
mod xtables;

pub(crate) use owner::{is_of_a_portmap, owner, program};
pub(crate) use packet::Packet;
pub(crate) use walk::{Decision, Fate, Rules};
pub(crate) use words::Words;
