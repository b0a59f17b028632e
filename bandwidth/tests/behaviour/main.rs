//! What bandwidth does on a host: what it makes is read with `tc` and `ip`, and what passes is
//! counted. Needs what the test box needs, and socat and ping.

#![forbid(unsafe_code)]

mod add;
mod check;
mod coexistence;
mod frame;
mod layouts;
mod queue;
mod removal;
mod subnets;
mod support;
mod traffic;
