//! The build script of each plugin: a release has what a call runs side by side.

use std::env;

fn main() {
    const ORDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../link/order.ld");
    println!("cargo::rerun-if-changed={ORDER}");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|it| it == value);
    // Of GNU ld and lld. Who chose another linker may have one that reads no scripts.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let is_usual_linker = !flags.contains("fuse-ld") && !flags.contains("linker=");
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_ARCH", "x86_64") && is_usual_linker {
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{ORDER}");
    }
}
