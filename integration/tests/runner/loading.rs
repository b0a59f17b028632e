//! Finding and parsing networks.

use std::fs;
use std::path::Path;

use cni_chain::{ConfError, NetworkList};
use serde_json::{Value, json};

use crate::spies::Stage;

fn parse(text: &str) -> Result<NetworkList, String> {
    NetworkList::from_bytes(text.as_bytes()).map_err(|error| error.to_string())
}

fn types(list: &NetworkList) -> Vec<&str> {
    list.plugins.iter().map(|plugin| plugin.plugin_type.as_str()).collect()
}

fn list_file(name: &str, plugin: &str) -> String {
    json!({"name": name, "plugins": [{"type": plugin}]}).to_string()
}

fn conf_file(name: &str, plugin: &str) -> String {
    json!({"name": name, "type": plugin}).to_string()
}

fn load(dir: &Path, name: &str) -> Result<String, String> {
    NetworkList::load(dir, name).map(|list| types(&list).join(",")).map_err(|e| e.to_string())
}

#[test]
fn rs01_lists_come_before_single_configurations() {
    let stage = Stage::new(&[]);
    stage.configure("10-a.json", &conf_file("net", "from-json"));
    assert_eq!(load(&stage.conf_dir(), "net"), Ok("from-json".into()));
    stage.configure("10-a.conf", &conf_file("net", "from-conf"));
    assert_eq!(load(&stage.conf_dir(), "net"), Ok("from-conf".into()));
    stage.configure("99-z.conflist", &list_file("net", "from-list"));
    assert_eq!(load(&stage.conf_dir(), "net"), Ok("from-list".into()));
    stage.configure("50-m.conflist", &list_file("net", "from-first-list"));
    assert_eq!(load(&stage.conf_dir(), "net"), Ok("from-first-list".into()));
}

#[test]
fn rs02_what_is_not_there() {
    let stage = Stage::new(&[]);
    let dir = stage.conf_dir();
    let none = Err(format!("no net configurations found in {}", dir.display()));
    let unknown = Err(format!("no net configuration with name \"net\" in {}", dir.display()));

    let missing = stage.path("missing");
    assert_eq!(
        load(&missing, "net"),
        Err(format!("no net configurations found in {}", missing.display()))
    );
    assert_eq!(load(&dir, "net"), none);
    fs::create_dir(dir.join("sub.conflist")).expect("a directory");
    stage.configure("sub/net.conflist", &list_file("net", "a"));
    stage.configure("README", "not a configuration");
    assert_eq!(load(&dir, "net"), none, "sub-directories and other files are not looked at");
    stage.configure("other.conflist", &list_file("other", "a"));
    assert_eq!(load(&dir, "net"), unknown, "lists, but no single configuration");
    stage.configure("other.conf", &conf_file("other", "a"));
    assert_eq!(load(&dir, "net"), unknown);
}

#[test]
fn rs03_a_broken_file_ends_the_search_if_it_comes_first() {
    let stage = Stage::new(&[]);
    stage.configure("50-net.conflist", &list_file("net", "a"));
    stage.configure("99-broken.conflist", "{");
    assert_eq!(load(&stage.conf_dir(), "net"), Ok("a".into()));
    let broken = stage.configure("10-broken.conflist", "{");
    let error = load(&stage.conf_dir(), "net").expect_err("a broken file");
    let expected = format!("{}: error parsing configuration list: ", broken.display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn rs04_plugins_that_are_none() {
    for (plugins, reason) in [
        (json!([{}]), "failed to parse plugin config 0: missing 'type'"),
        (json!([{"type": "a"}, {"type": ""}]), "failed to parse plugin config 1: missing 'type'"),
        (json!([{"type": 5}]), "type must be a string, but is 5"),
        (json!(["a"]), "must be an object, but is a string"),
        (json!([{"type": "a", "capabilities": {"x": 1}}]), "capabilities.x must be true or false"),
        (json!([{"type": "a", "capabilities": []}]), "capabilities must be an object"),
        (json!([{"type": "a", "ipam": "x"}]), "ipam must be an object"),
        (json!([{"type": "a", "dns": 1}]), "dns must be an object"),
        (json!([]), "no plugins in list"),
        (json!({}), "plugins must be a list, but is an object"),
        (Value::Null, "plugins must be a list, but is null"),
    ] {
        let error = parse(&json!({"name": "n", "plugins": plugins}).to_string()).expect_err(reason);
        assert!(error.starts_with("error parsing configuration list: "), "{error}");
        assert!(error.contains(reason), "{error}");
    }
    let error = parse(r#"{"name":"n","loadOnlyInlinedPlugins":true}"#).expect_err("no plugins");
    assert!(error.contains("loadOnlyInlinedPlugins"), "{error}");
    assert_eq!(parse(r#"{"name":"n"}"#).map(|list| list.plugins.len()), Ok(0));
}

#[test]
fn rs05_switches() {
    let read = |key: &str, value: &Value| {
        parse(&json!({"name": "n", "plugins": [{"type": "a"}], key: value}).to_string())
    };
    for (value, expected) in
        [(json!(true), true), (json!(false), false), (json!("true"), true), (json!("FALSE"), false)]
    {
        assert_eq!(read("disableCheck", &value).map(|list| list.disable_check), Ok(expected));
        assert_eq!(read("disableGC", &value).map(|list| list.disable_gc), Ok(expected));
        assert!(read("loadOnlyInlinedPlugins", &value).is_ok());
    }
    for key in ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"] {
        for value in [json!("yes"), json!(1), Value::Null, json!("")] {
            let error = read(key, &value).expect_err("no switch");
            assert!(error.contains(&format!("{key} must be true or false")), "{error}");
        }
    }
}

#[test]
fn rs06_plugins_of_the_networks_own_directory() {
    let stage = Stage::new(&[]);
    let main = stage.configure("net.conflist", &list_file("net", "a"));
    stage.configure("net/20.conf", &conf_file("", "c"));
    stage.configure("net/10.conf", &conf_file("", "b"));
    stage.configure("net/30.json", "{");
    stage.configure("net/30.conflist", "{");
    let list = NetworkList::from_file(&main).expect("valid");
    assert_eq!(types(&list), ["a", "b", "c"]);
    assert_eq!(list.bytes(), list_file("net", "a").as_bytes(), "the cache gets the main file");
    assert_eq!(load(&stage.conf_dir(), "net"), Ok("a,b,c".into()));
    let bytes = NetworkList::from_bytes(&fs::read(&main).expect("the file")).expect("valid");
    assert_eq!(types(&bytes), ["a"], "bytes have no directory");

    stage.configure("net.conflist", r#"{"name":"net"}"#);
    assert_eq!(load(&stage.conf_dir(), "net"), Ok("b,c".into()), "no inlined plugin needed");
    let alone = stage.configure("zz-alone.conflist", r#"{"name":"alone"}"#);
    assert_eq!(
        NetworkList::from_file(&alone).expect_err("no plugin").to_string(),
        format!("{}: no plugin configs found", alone.display())
    );

    let broken = stage.configure("net/15.conf", "{");
    let error = load(&stage.conf_dir(), "net").expect_err("a broken file");
    assert!(error.starts_with(&broken.display().to_string()), "{error}");
    stage.configure(
        "net.conflist",
        r#"{"name":"net","loadOnlyInlinedPlugins":"true","plugins":[{"type":"a"}]}"#,
    );
    assert_eq!(load(&stage.conf_dir(), "net"), Ok("a".into()));
}

#[test]
fn rs06_a_name_that_is_a_path_leads_nowhere() {
    let stage = Stage::new(&[]);
    stage.configure("elsewhere/10.conf", "{");
    let main = stage.configure("net.conflist", &list_file("../net.d/elsewhere", "a"));
    assert_eq!(NetworkList::from_file(&main).map(|list| list.plugins.len()).expect("valid"), 1);
}

#[test]
fn rs07_the_effective_version() {
    let version = |members: Value| {
        let mut list = json!({"name": "n", "plugins": [{"type": "a"}]});
        for (key, value) in members.as_object().expect("an object") {
            list[key] = value.clone();
        }
        parse(&list.to_string()).map(|list| list.cni_version)
    };
    for (members, expected) in [
        (json!({}), ""),
        (json!({"cniVersion": ""}), ""),
        (json!({"cniVersion": "1.2.3"}), "1.2.3"),
        (json!({"cniVersion": "abc"}), "abc"),
        (json!({"cniVersions": ["1.1.0", "0.4.0", "1.0.0"]}), "1.1.0"),
        (json!({"cniVersions": ["1.1.0", "99.0.0"]}), "1.1.0"),
        (json!({"cniVersions": ["0.4.0", "0.3.1"], "cniVersion": "1.0.0"}), "1.0.0"),
        (json!({"cniVersions": ["1.0.0"], "cniVersion": "0.4.0"}), "1.0.0"),
        (json!({"cniVersions": ["0.4.0"], "cniVersion": "99.0.0"}), "0.4.0"),
        (json!({"cniVersions": ["99.0.0"], "cniVersion": "99.0.0"}), "99.0.0"),
        (json!({"cniVersions": []}), ""),
        (json!({"cniVersions": [], "cniVersion": "0.4.0"}), "0.4.0"),
        (json!({"cniVersions": ["", "0.0.9"]}), ""),
    ] {
        assert_eq!(version(members.clone()), Ok(expected.to_owned()), "{members}");
    }
    for members in
        [json!({"cniVersions": ["1.0.f"]}), json!({"cniVersions": [], "cniVersion": "abc"})]
    {
        assert!(version(members.clone()).is_err(), "{members}");
    }
}

#[test]
fn rs08_wrong_types_at_the_top() {
    for (text, reason) in [
        (r#"{"plugins":[{"type":"a"}]}"#, "no name"),
        (r#"{"name":5}"#, "name must be a string"),
        (r#"{"name":null}"#, "name must be a string, but is null"),
        (r#"{"name":"n","cniVersion":1}"#, "cniVersion must be a string"),
        (r#"{"name":"n","cniVersion":null}"#, "cniVersion must be a string"),
        (r#"{"name":"n","cniVersions":"x"}"#, "cniVersions must be a list"),
        (r#"{"name":"n","cniVersions":[1]}"#, "cniVersions[0] must be a string"),
        ("[]", "the document is a list, not an object"),
        ("null", "the document is null, not an object"),
        ("{} {}", "trailing characters"),
        ("", "EOF"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn rs09_a_single_configuration_becomes_a_list() {
    let stage = Stage::new(&[]);
    let text = r#"{"cniVersion":"0.4.0","name":"net","type":"a","big":18446744073709551615}"#;
    let path = stage.configure("net.conf", text);
    let from_file = NetworkList::from_file(&path).expect("valid");
    let loaded = NetworkList::load(&stage.conf_dir(), "net").expect("valid");
    assert_eq!(from_file, loaded);
    assert_eq!((loaded.name.as_str(), loaded.cni_version.as_str()), ("net", "0.4.0"));
    assert_eq!(types(&loaded), ["a"]);
    let again = NetworkList::from_bytes(loaded.bytes()).expect("the cached document is a list");
    assert_eq!(again.plugins, loaded.plugins);
    assert_eq!((again.name, again.cni_version), (loaded.name, loaded.cni_version));
}

#[test]
fn rs09_a_list_under_a_single_configurations_name() {
    let stage = Stage::new(&[]);
    let path = stage.configure("net.conf", &list_file("net", "a"));
    let error = load(&stage.conf_dir(), "net").expect_err("a list is no plugin configuration");
    assert!(error.ends_with("error parsing configuration: missing 'type'"), "{error}");
    // Asked for by its path, there is no doubt what it is.
    assert_eq!(types(&NetworkList::from_file(&path).expect("a list")), ["a"]);
    let missing = NetworkList::from_file(&stage.path("missing.conflist")).expect_err("no file");
    assert!(matches!(missing, ConfError::Read { .. }), "{missing}");
}
