//! What firewall lets through on real hosts, and whose an admission is.

mod failure;
mod firewalld;
mod forward_chains;
mod hosts;
mod in_use;
mod iptables_output;
mod layouts;
mod matrix;
mod ownership;
mod renamed;
