//! No circle among the modules of a crate: who reads one of two modules must not have to read the
//! other first.
//!
//! Modules beside each other are compared, each with all that is below it. `mod.rs` and its own
//! children may use each other: there a parent says what its children have in common, and chooses
//! among them. A name that a parent re-exports counts as the module's where it is defined, so
//! that a circle cannot hide behind `pub use`. Tests' code is not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

const CRATES: [&str; 7] =
    ["common", "portmap", "bandwidth", "tuning", "firewall", "integration", "integration/testbox"];

#[test]
fn no_crate_has_a_circle_of_modules() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut report = String::new();
    for name in CRATES {
        let modules = Crate::read(&workspace.join(name).join("src/lib.rs"));
        assert!(modules.0.len() > 1, "{name} has no modules: is this its lib.rs?");
        for circle in modules.circles() {
            let _ = writeln!(report, "{name}: {circle}");
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn circles_are_found() {
    let circles = |text| Crate::of(text, Path::new("/nonexistent")).circles();
    for circle in [
        "mod a { use crate::b::B; struct A; } mod b { fn f() { assert!(super::a::A::new()); } struct B; }",
        "mod a { mod x { use super::super::b::B as C; } } mod b { struct B; use crate::{a::{self, x}}; }",
        // Behind a name that the parent re-exports, by itself or with all others.
        "pub use a::A; mod a { pub const fn A() { crate::b::B } } mod b { use crate::A; struct B; }",
        "pub use a::*; mod a { struct A; use super::b; } mod b { use crate::A; }",
        "mod a { use crate::b; } mod b { use crate::c; } mod c { type T = Vec<crate::a::T>; }",
        "mod p { mod a { use super::b::B; } mod b { use crate::p::a::A; } }",
    ] {
        assert_eq!(circles(circle).len(), 1, "{circle}");
    }
    for none in [
        "mod a { use crate::b::B; } mod b { struct B; } #[cfg(test)] mod tests { use super::a; }",
        "mod a { use crate::b::B; } mod b { #[cfg(test)] use crate::{a, c}; #[cfg(test)] mod t { use super::super::a; } }",
        // A parent and its child.
        "pub use a::A; fn f() { a::g(); } mod a { use super::f; struct A; }",
        // Names of others.
        "mod a { use crate::b; use std::fmt; } mod b { use serde::a; use std::a::*; }",
    ] {
        assert_eq!(circles(none), [""; 0], "{none}");
    }
}

/// A module's path from the crate's root, which has none.
type Name = Vec<String>;

/// The modules of a crate.
struct Crate(BTreeMap<Name, Module>);

#[derive(Default)]
struct Module {
    /// What its own items are called.
    items: BTreeSet<String>,
    /// Names that `use` brings in, and the paths they stand for.
    aliases: BTreeMap<String, Name>,
    /// Paths before `::*`.
    globs: Vec<Name>,
    /// Every path of two or more words.
    paths: BTreeSet<Name>,
}

impl Crate {
    fn read(root: &Path) -> Self {
        let text = fs::read_to_string(root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
        Self::of(&text, root.parent().expect("a directory"))
    }

    fn of(text: &str, directory: &Path) -> Self {
        let mut modules = Self(BTreeMap::new());
        modules.add(Vec::new(), &tokens(text), directory);
        modules
    }

    /// `directory` is where the files of the module's children are.
    fn add(&mut self, name: Name, tokens: &[TokenTree], directory: &Path) {
        let mut module = Module::default();
        module.read(tokens, &mut |child, body| {
            let mut child_name = name.clone();
            child_name.push(child.to_owned());
            let below = directory.join(child);
            if let Some(body) = body {
                return self.add(child_name, &body, &below);
            }
            let file = directory.join(format!("{child}.rs"));
            let (file, text) = read_either(&file, &below.join("mod.rs"));
            let tokens = text.parse().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            self.add(child_name, &trees(tokens), &below);
        });
        self.0.insert(name, module);
    }

    /// The module in which `path`, as written in `from`, ends; none if it leads out of the crate.
    fn target(&self, from: &Name, path: &[String]) -> Option<Name> {
        self.follow(from, path, 0)
    }

    fn follow(&self, from: &Name, path: &[String], depth: usize) -> Option<Name> {
        // An alias that stands for itself is the name of another crate.
        if depth > 20 {
            return None;
        }
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.walk(Vec::new(), rest, depth),
            "self" => self.walk(from.clone(), rest, depth),
            "super" => {
                let (_, parent) = from.split_last()?;
                let mut path = vec!["self".to_owned()];
                path.extend_from_slice(rest);
                // `super::super` goes on from there.
                let skip = usize::from(rest.first().is_some_and(|word| word == "super"));
                self.follow(&parent.to_vec(), &path[skip..], depth + 1)
            }
            word => {
                let module = &self.0[from];
                let is_known = self.0.contains_key(&child(from, word))
                    || module.items.contains(word)
                    || module.aliases.contains_key(word);
                is_known.then(|| self.walk(from.clone(), path, depth))?
            }
        }
    }

    fn walk(&self, from: Name, path: &[String], depth: usize) -> Option<Name> {
        let Some((first, rest)) = path.split_first() else { return Some(from) };
        let below = child(&from, first);
        if self.0.contains_key(&below) {
            return self.walk(below, rest, depth);
        }
        let module = &self.0[&from];
        if module.items.contains(first) {
            return Some(from);
        }
        if let Some(alias) = module.aliases.get(first) {
            let path: Name = alias.iter().chain(rest).cloned().collect();
            return self.follow(&from, &path, depth + 1);
        }
        let through_glob = module.globs.iter().find_map(|glob| {
            let target = self.follow(&from, glob, depth + 1)?;
            self.0[&target].items.contains(first).then_some(target)
        });
        Some(through_glob.unwrap_or(from))
    }

    /// For each module that has children: which child uses which other, and where.
    fn uses_among_siblings(&self) -> BTreeMap<Name, BTreeMap<(String, String), String>> {
        let mut edges: BTreeMap<Name, BTreeMap<(String, String), String>> = BTreeMap::new();
        for (from, module) in &self.0 {
            for path in module.paths.iter().chain(module.aliases.values()).chain(&module.globs) {
                let Some(to) = self.target(from, path) else { continue };
                let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                let (Some(reader), Some(source)) = (from.get(shared), to.get(shared)) else {
                    continue;
                };
                edges
                    .entry(from[..shared].to_vec())
                    .or_default()
                    .entry((reader.clone(), source.clone()))
                    .or_insert_with(|| format!("{} names {}", from.join("::"), path.join("::")));
            }
        }
        edges
    }

    fn circles(&self) -> Vec<String> {
        let uses = self.uses_among_siblings();
        uses.values().filter_map(circle).collect()
    }
}

/// One circle among the edges, told as the uses that close it.
fn circle(uses: &BTreeMap<(String, String), String>) -> Option<String> {
    let mut nodes: BTreeSet<&String> = uses.keys().flat_map(|(from, to)| [from, to]).collect();
    // Who uses nobody that is left is in no circle, and who is used by nobody neither.
    loop {
        let left: Vec<_> =
            uses.keys().filter(|(from, to)| nodes.contains(from) && nodes.contains(to)).collect();
        let in_circle = |node: &&String| {
            left.iter().any(|(from, _)| from == *node) && left.iter().any(|(_, to)| to == *node)
        };
        let kept: BTreeSet<&String> =
            nodes.iter().copied().filter(|node| in_circle(node)).collect();
        if kept.len() == nodes.len() {
            break;
        }
        nodes = kept;
    }
    if nodes.is_empty() {
        return None;
    }
    let names: Vec<&str> = nodes.iter().map(|node| node.as_str()).collect();
    let mut text = format!("a circle among {}", names.join(", "));
    for ((from, to), example) in uses {
        if nodes.contains(from) && nodes.contains(to) {
            let _ = write!(text, "\n    {from} -> {to}: {example}");
        }
    }
    Some(text)
}

fn child(of: &Name, name: &str) -> Name {
    let mut path = of.clone();
    path.push(name.to_owned());
    path
}

fn read_either(first: &Path, second: &Path) -> (PathBuf, String) {
    for path in [first, second] {
        if let Ok(text) = fs::read_to_string(path) {
            return (path.to_owned(), text);
        }
    }
    panic!("neither {} nor {}", first.display(), second.display());
}

fn tokens(text: &str) -> Vec<TokenTree> {
    trees(text.parse().expect("Rust"))
}

fn trees(tokens: TokenStream) -> Vec<TokenTree> {
    tokens.into_iter().collect()
}

impl Module {
    /// Reads what the module says; `found` is told its child modules, with their body if it is here.
    fn read(&mut self, tokens: &[TokenTree], found: &mut impl FnMut(&str, Option<Vec<TokenTree>>)) {
        let mut rest = tokens;
        while !rest.is_empty() {
            if is_tests_attribute(rest) {
                rest = after_item(&rest[2..]);
            } else if let Some(name) = keyword(rest, "mod") {
                let body = match &rest[2] {
                    TokenTree::Group(body) => Some(trees(body.stream())),
                    _ => None,
                };
                found(&name, body);
                rest = &rest[3..];
            } else {
                rest = &rest[self.read_one(rest)..];
            }
        }
    }

    /// Reads what stands first; how many tokens that were.
    fn read_one(&mut self, tokens: &[TokenTree]) -> usize {
        for kind in ["fn", "struct", "enum", "trait", "type", "const", "static", "union"] {
            // `const fn` defines what comes after `fn`.
            if let Some(name) = keyword(tokens, kind).filter(|name| name != "fn") {
                self.items.insert(name);
                return 2;
            }
        }
        match &tokens[0] {
            TokenTree::Ident(word) if word == "use" => {
                let length = tokens.iter().position(|t| is_punct(t, ';')).expect("`use …;`");
                self.read_use(&mut Vec::new(), &tokens[1..length]);
                length
            }
            TokenTree::Ident(_) => {
                let (path, length) = path(tokens);
                if path.len() > 1 {
                    self.paths.insert(path);
                }
                length
            }
            TokenTree::Group(group) => {
                // No `mod` is inside a function.
                self.read_inside(&trees(group.stream()));
                1
            }
            _ => 1,
        }
    }

    /// What is inside a body or an argument list is the module's, but defines nothing of it.
    fn read_inside(&mut self, tokens: &[TokenTree]) {
        let mut inside = Self::default();
        inside.read(tokens, &mut |_, _| {});
        self.paths.extend(inside.paths);
        for (name, path) in inside.aliases {
            self.paths.insert(path.clone());
            self.aliases.entry(name).or_insert(path);
        }
        self.globs.extend(inside.globs);
    }

    fn read_use(&mut self, before: &mut Name, tokens: &[TokenTree]) {
        let (words, length) = path(tokens);
        let at_first = before.len();
        before.extend(words);
        match tokens.get(length..).unwrap_or_default() {
            [] => self.alias(before.last().cloned(), before),
            [TokenTree::Ident(_as), TokenTree::Ident(name)] => {
                self.alias(Some(name.to_string()), before);
            }
            [.., TokenTree::Punct(star)] if star.as_char() == '*' => {
                self.globs.push(before.clone());
            }
            [.., TokenTree::Group(group)] => {
                for part in trees(group.stream()).split(|token| is_punct(token, ',')) {
                    if !part.is_empty() {
                        self.read_use(before, part);
                    }
                }
            }
            other => panic!("use {before:?} {other:?}"),
        }
        before.truncate(at_first);
    }

    fn alias(&mut self, name: Option<String>, path: &[String]) {
        let mut path = path.to_vec();
        let mut name = name.expect("a name");
        if name == "self" && path.len() > 1 {
            path.pop();
            name = path.last().cloned().expect("`name::self`");
        }
        // `_` brings in a trait without its name.
        if name == "_" {
            self.paths.insert(path);
        } else {
            self.aliases.insert(name, path);
        }
    }
}

/// `a::b::c` at the beginning, and how many tokens it takes; a leading `::` leads to other crates.
fn path(tokens: &[TokenTree]) -> (Name, usize) {
    let mut words = Vec::new();
    let mut length = 0;
    while let Some(TokenTree::Ident(word)) = tokens.get(length) {
        words.push(word.to_string());
        length += 1;
        let colons = tokens.get(length..length + 2);
        if !colons.is_some_and(|pair| pair.iter().all(|token| is_punct(token, ':'))) {
            break;
        }
        length += 2;
    }
    // `a::` before `{`, `*` or `<`.
    (words, length)
}

/// The name after `word`, if that is what stands first.
fn keyword(tokens: &[TokenTree], word: &str) -> Option<String> {
    match tokens {
        [TokenTree::Ident(first), TokenTree::Ident(name), ..] if first == word => {
            Some(name.to_string())
        }
        _ => None,
    }
}

fn is_punct(token: &TokenTree, punct: char) -> bool {
    matches!(token, TokenTree::Punct(token) if token.as_char() == punct)
}

/// `#[cfg(test)]` and the like.
fn is_tests_attribute(tokens: &[TokenTree]) -> bool {
    let [hash, TokenTree::Group(attribute), ..] = tokens else { return false };
    if !is_punct(hash, '#') || attribute.delimiter() != Delimiter::Bracket {
        return false;
    }
    let text = attribute.stream().to_string().replace(' ', "");
    text == "cfg(test)" || text.starts_with("cfg(all(test")
}

/// What comes after the item that stands first.
fn after_item(tokens: &[TokenTree]) -> &[TokenTree] {
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => is_punct(token, ';'),
    };
    let is_use =
        tokens.iter().take(4).any(|token| matches!(token, TokenTree::Ident(word) if word == "use"));
    let end =
        tokens.iter().position(|token| if is_use { is_punct(token, ';') } else { is_end(token) });
    end.map_or(&[], |end| &tokens[end + 1..])
}
