//! End-to-end tests of chains: real plugins, real kernel, real packets, each in a box of
//! `cni_testbox`. What one plugin does alone is tested in its own crate.

mod command;
mod explain;
mod four_plugins;
mod hand_over;
mod interrupted;
mod masquerade;
mod nft_kernel;
mod node;
mod older_layout;
mod recorded;
mod restore;
mod screens;
mod talks;
mod trace;
mod translations;
mod upgrade;
mod watch;
