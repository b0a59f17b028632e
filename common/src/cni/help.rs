//! What a plugin says to a person who runs it by hand with `--help`.

/// The page, of at most 80 columns, behind the lines that `--version` prints.
pub(super) fn page(version: &str, name: &str, about: &str) -> String {
    let repository = env!("CARGO_PKG_REPOSITORY");
    format!(
        "{version}

{about}.

A container runtime runs this program, once for each container that comes or
goes, with the command in CNI_COMMAND and the network's configuration on stdin.
Name it as \"type\": \"{name}\" in a list in /etc/cni/net.d, behind the
plugin that makes the interface, and put it where the runtime looks for
plugins, usually /opt/cni/bin.

By hand:
  cni-chain lint NETWORK       say what is wrong with a list
  cni-chain explain NETWORK    say what each plugin of a list would do
  cni-chain add NETWORK NETNS  run a list as a runtime does
  cni-chain show               show what was made, and whose it is

CNI_COMMAND: ADD, DEL, CHECK, GC, STATUS or VERSION
Options:     --help or -h, --version or -V

Docs: {repository}/blob/main/docs/{name}.md

Exit status: 0 success, 1 an error, which is told as JSON on stdout."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_fits_a_terminal_and_leads_to_its_document() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for name in ["portmap", "bandwidth", "tuning", "firewall"] {
            let page = page("CNI plugin", name, "Does something");
            assert!(page.lines().all(|line| line.len() <= 80), "{page}");
            let document = page.lines().find_map(|line| line.strip_prefix("Docs: "));
            let path = document.and_then(|url| url.split_once("/blob/main/")).expect("a place").1;
            assert!(root.join(path).is_file(), "{path}");
        }
    }
}
