//! What portmap does to real packets, and whose a mapping is.

mod addresses;
mod beside_others;
mod check;
mod conditions;
mod conflicts;
mod conntrack;
mod entries;
mod failure;
mod iptables_output;
mod iptables_words;
mod layouts;
mod loopback;
mod many;
mod mark;
mod notices;
mod odd_input;
mod ownership;
mod reload;
mod repair;
mod security;
mod traffic;
