//! The real binary in a throw-away box: what it makes is read with `tc` and `ip`, and what passes is
//! counted. Needs root, iproute2, socat, strace and Debian's `containernetworking-plugins`.

#![forbid(unsafe_code)]

mod add;
mod check;
mod coexistence;
mod faults_of_go;
mod frame;
mod removal;
mod subnets;
mod testbox;
mod traffic;
