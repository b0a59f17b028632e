//! Where a container runtime's configuration says that CNI plugins are. Pure.

use toml::{Table, Value};

/// The CRI plugin's table in each version of containerd's configuration.
const CONTAINERD_CRI: [&str; 3] =
    ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"];

/// What microk8s writes in place of its directory.
const SNAP_DATA: (&str, &str) = ("${SNAP_DATA}", "/var/snap/microk8s/current");

/// The directories of a containerd configuration, of versions 1 to 3. The error says where the text
/// is no TOML.
pub(super) fn of_containerd(text: &str) -> Result<Vec<String>, toml::de::Error> {
    let top: Table = text.parse()?;
    let cni = CONTAINERD_CRI.iter().find_map(|plugin| below(&top, &["plugins", plugin, "cni"]));
    let dirs = cni.map(|cni| texts(cni, "bin_dirs", "bin_dir")).unwrap_or_default();
    Ok(dirs.into_iter().map(|dir| dir.replace(SNAP_DATA.0, SNAP_DATA.1)).collect())
}

/// The files that a containerd configuration imports, as they are written.
pub(super) fn imports_of_containerd(text: &str) -> Vec<String> {
    let top: Table = text.parse().unwrap_or_default();
    texts(&top, "imports", "")
}

/// The directories of one of CRI-O's files; empty if it says nothing about them.
pub(super) fn of_crio(text: &str) -> Result<Vec<String>, toml::de::Error> {
    let top: Table = text.parse()?;
    let network = below(&top, &["crio", "network"]);
    Ok(network.map(|network| texts(network, "plugin_dirs", "plugin_dir")).unwrap_or_default())
}

fn below<'a>(top: &'a Table, path: &[&str]) -> Option<&'a Table> {
    path.iter().try_fold(top, |table, key| table.get(*key)?.as_table())
}

/// The texts of a list, or of the single value that older versions have under another name.
fn texts(table: &Table, list: &str, single: &str) -> Vec<String> {
    let of_list = table.get(list).and_then(Value::as_array).into_iter().flatten();
    let found: Vec<&Value> = of_list.collect();
    let found = if found.is_empty() { table.get(single).into_iter().collect() } else { found };
    let texts = found.into_iter().filter_map(Value::as_str).filter(|text| !text.is_empty());
    texts.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_of_containerd() {
        for (text, dirs) in [
            (
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/opt/a\"\n",
                vec!["/opt/a"],
            ),
            (
                "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir = '/opt/b'",
                vec!["/opt/b"],
            ),
            (
                "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir = ''\nbin_dirs = ['/c', '/d']",
                vec!["/c", "/d"],
            ),
            (
                "[plugins.cri.cni]\nbin_dir = \"${SNAP_DATA}/opt/cni/bin\"",
                vec!["/var/snap/microk8s/current/opt/cni/bin"],
            ),
            ("disabled_plugins = [\"cri\"]", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(of_containerd(text).expect(text), dirs, "{text}");
        }
        assert!(of_containerd("bin_dir = ").is_err());
    }

    #[test]
    fn imports_are_named() {
        let text = "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]";
        assert_eq!(imports_of_containerd(text), ["/etc/containerd/conf.d/*.toml"]);
        assert_eq!(imports_of_containerd("]"), [""; 0]);
    }

    #[test]
    fn cri_o_has_a_list_and_had_one() {
        let dirs = |text| of_crio(text).expect("TOML");
        assert_eq!(
            dirs("[crio.network]\nplugin_dirs = [\n\t\"/opt/cni/bin/\",\n]"),
            ["/opt/cni/bin/"]
        );
        assert_eq!(dirs("[crio.network]\nplugin_dir = \"/a\""), ["/a"]);
        assert_eq!(dirs("[crio.runtime]\nx = 1"), [""; 0]);
    }
}
