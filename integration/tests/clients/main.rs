//! Real runtimes with our plugins first: what a runtime calls, with what, and in which order, is its
//! own. Each case runs in a box of `cni_testbox`, with the runtime's daemons in it. And the lists that
//! projects ship, called as the runtimes do, and the pages for users, followed as a reader does.
//!
//! A case prints what it has shown in lines that begin with `compat|`, from which a table can be made.

mod compat;
mod containerd;
mod cri;
mod demo;
mod firewalld;
mod image;
mod libcni;
mod lists;
mod node;
mod pages;
mod podman;
mod rate;
mod rootless;
mod takeover;
