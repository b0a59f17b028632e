//! An empty program, started as a plugin is (`common/src/cni/entry.rs`), and against the same libc. `./dev bench
//! --report` has rustc put it beside the plugins; it is in no crate.

#![no_main]

/// What libc calls.
#[unsafe(no_mangle)]
extern "C" fn main() -> std::ffi::c_int {
    0
}
