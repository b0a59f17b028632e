//! A linker script that puts what calls run side by side in a program: each 64 KiB of its text that
//! a call touches is a page fault, and a call touches most of what lies about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::Command;

/// What a call runs, as patterns for the linker's names of sections.
pub(super) struct Order {
    /// Of Rust's functions, in the order of their first call. What differs from build to build is left out.
    sections: Vec<String>,
    /// The members of libc.a that hold C's functions.
    members: BTreeSet<String>,
}

/// What valgrind does not name, because it has no size: the members of musl in assembly that every call runs.
const IN_ASSEMBLY: [&str; 4] = ["__set_thread_area.lo", "memcpy.lo", "memmove.lo", "memset.lo"];

impl Order {
    /// `libc` is the archive that the programs are linked with.
    pub(super) fn of(functions: impl Iterator<Item = String>, libc: &str) -> Self {
        let members_of = members_of(libc);
        let members = IN_ASSEMBLY.iter().map(ToString::to_string).collect();
        let mut order = Self { sections: Vec::new(), members };
        let mut seen = BTreeSet::new();
        for function in functions {
            let is_rust = ["_R", "_ZN", "main"].iter().any(|start| function.starts_with(start));
            if is_rust && seen.insert(pattern(&function)) {
                order.sections.push(pattern(&function));
            }
            order.members.extend(members_of.get(&function).into_iter().flatten().cloned());
        }
        order
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "/* What calls of the plugins run, side by side. Written by ./dev order; names that a build does"
        )?;
        writeln!(f, "   not have do no harm. */")?;
        writeln!(f, "SECTIONS\n{{\n  .text.called : {{")?;
        writeln!(f, "    *crt*.o(.text .text.*)")?;
        for member in &self.members {
            writeln!(f, "    *libc.a:{member}(.text .text.*)")?;
        }
        for section in &self.sections {
            // Cold functions have sections of another name, and some run at every call.
            writeln!(f, "    *(.text.{section} .text.unlikely.{section})")?;
        }
        writeln!(f, "  }}\n}}\nINSERT BEFORE .text;")
    }
}

/// A mangled name without the hashes, which change with the compiler and with dependencies.
fn pattern(name: &str) -> String {
    let name = without_legacy_hash(name).replace(['$', '['], "?");
    // In names of the newer form a crate is `Cs<hash>_<name>`.
    let mut parts = name.split("Cs");
    let mut pattern = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let hash = part.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(0);
        let is_hash = hash > 0 && part[hash..].starts_with('_');
        pattern.push_str("Cs");
        pattern.push_str(if is_hash { "*" } else { &part[..hash] });
        pattern.push_str(&part[hash..]);
    }
    pattern
}

/// In names of the older form the last part is `17h<hash>E`.
fn without_legacy_hash(name: &str) -> String {
    const HASH: usize = "17h0123456789abcdefE".len();
    match name.len().checked_sub(HASH).and_then(|start| name.split_at_checked(start)) {
        Some((rest, hash)) if name.starts_with("_ZN") && hash.starts_with("17h") => {
            format!("{rest}17h*E")
        }
        _ => name.to_owned(),
    }
}

/// Of each function in libc.a, the members that define it.
fn members_of(libc: &str) -> BTreeMap<String, Vec<String>> {
    let output =
        Command::new("nm").args(["-A", "--defined-only", libc]).output().expect("nm of binutils");
    let listing = String::from_utf8_lossy(&output.stdout);
    let mut members = BTreeMap::<String, Vec<String>>::new();
    for line in listing.lines() {
        // As in `/usr/lib/libc.a:malloc.o:0000000000000000 T malloc`.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(member), Some(symbol)) = (parts.next(), parts.next()) else { continue };
        if let [_, kind, name] = symbol.split_whitespace().collect::<Vec<_>>()[..]
            && ["t", "T", "i", "w", "W"].contains(&kind)
        {
            members.entry(name.to_owned()).or_default().push(member.to_owned());
        }
    }
    members
}
