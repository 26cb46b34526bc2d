//! Configurations as operators have them, and the file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use fairway_backend_cni::{CniBackend, Trouble, merge, read};
use fairway_desired::{Backend, FileValue, Op, Outcome, file_errno};
use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::{Value, json};

fn value(ranges: &[&str], mtu: Option<u32>) -> FileValue {
    FileValue { ranges: ranges.iter().map(|text| text.parse().expect("a prefix")).collect(), mtu }
}

/// What becomes of a plugin; `None`: it stays.
fn plugin(old: &Value, value: &FileValue) -> Option<Value> {
    let text = merge(Some(&old.to_string()), false, value).expect("a plugin of type bridge");
    text.map(|text| serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn cidrs_and_mtu_are_set_and_the_rest_survives() {
    type Case = (&'static str, Value, Option<Value>);
    let wanted = || value(&["10.1.0.0/24", "fd01::/64"], Some(1480));
    let cases: [Case; 7] = [
        (
            "kube-router's own",
            json!({"type": "bridge", "bridge": "kube-bridge", "isDefaultGateway": true, "ipam": {"type": "host-local"}}),
            Some(json!({"type": "bridge", "bridge": "kube-bridge", "isDefaultGateway": true, "mtu": 1480, "ipam":
                {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]]}})),
        ),
        (
            "without ipam, with a number of every kind",
            json!({"type": "bridge", "vlan": 7, "x": {"y": [1.5, null, "ä", -3]}}),
            Some(json!({"type": "bridge", "vlan": 7, "x": {"y": [1.5, null, "ä", -3]}, "mtu": 1480, "ipam":
                {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]]}})),
        ),
        (
            "the older form, with its own gateway",
            json!({"type": "bridge", "mtu": 9000, "ipam":
                {"type": "host-local", "subnet": "10.1.0.0/24", "gateway": "10.1.0.9", "dataDir": "/run/ipam"}}),
            Some(
                json!({"type": "bridge", "mtu": 1480, "ipam": {"type": "host-local", "dataDir": "/run/ipam", "ranges":
                [[{"subnet": "10.1.0.0/24", "gateway": "10.1.0.9"}], [{"subnet": "fd01::/64"}]]}}),
            ),
        ),
        (
            "the older form of another network",
            json!({"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.5"}}),
            Some(json!({"type": "bridge", "mtu": 1480, "ipam":
                {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]]}})),
        ),
        (
            "stale networks, and settings of one that stays",
            json!({"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.8.0.0/24"}],
                [{"subnet": "10.1.0.7/24", "rangeStart": "10.1.0.20"}], [{"subnet": "nonsense"}], "odd"],
                "routes": [{"dst": "0.0.0.0/0"}]}}),
            Some(json!({"type": "bridge", "mtu": 1480, "ipam": {"type": "host-local", "ranges":
                [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20"}], [{"subnet": "fd01::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}]}})),
        ),
        (
            "one set of both is the operator's wish",
            json!({"type": "bridge", "mtu": 1480, "ipam":
                {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd01::/64"}]]}}),
            None,
        ),
        (
            "the other order",
            json!({"type": "bridge", "mtu": 1480, "ipam": {"type": "host-local", "ranges":
                [[{"subnet": "fd01::/64", "gateway": "fd01::9"}], [{"subnet": "10.1.0.0/24"}]]}}),
            Some(json!({"type": "bridge", "mtu": 1480, "ipam": {"type": "host-local", "ranges":
                [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64", "gateway": "fd01::9"}]]}})),
        ),
    ];
    for (what, old, new) in cases {
        assert_eq!(plugin(&old, &wanted()), new, "{what}");
    }
}

#[test]
fn without_an_mtu_the_operators_stays() {
    let old = json!({"type": "bridge", "mtu": 9000});
    let new = plugin(&old, &value(&["10.1.0.0/24"], None)).expect("a change");
    assert_eq!(new["mtu"], 9000);
}

#[test]
fn a_list_is_searched_for_the_first_bridge() {
    let old = json!({"cniVersion": "1.0.0", "name": "x", "plugins":
        [{"type": "tuning"}, "odd", {"type": "bridge", "n": 1}, {"type": "bridge", "n": 2}, {"type": "portmap"}]});
    let text = merge(Some(&old.to_string()), true, &value(&["10.1.0.0/24"], Some(1500))).expect("a bridge");
    let new: Value = serde_json::from_str(&text.expect("a change")).expect("JSON");
    let plugins = new["plugins"].as_array().expect("a list");
    assert_eq!(plugins.len(), 5);
    assert_eq!((&plugins[2]["n"], &plugins[2]["mtu"], &plugins[3]["mtu"]), (&json!(1), &json!(1500), &Value::Null));
}

#[test]
fn without_a_file_there_is_kube_routers() {
    for list in [true, false] {
        let text = merge(None, list, &value(&["10.1.0.0/24"], Some(1480))).expect("fine").expect("a text");
        assert_eq!(read(&text, list, true), Some(value(&["10.1.0.0/24"], Some(1480))));
        let new: Value = serde_json::from_str(&text).expect("JSON");
        let bridge = if list { &new["plugins"][0] } else { &new };
        let want = json!(["bridge", "kube-bridge", true, true]);
        let got = json!([bridge["type"], bridge["bridge"], bridge["isDefaultGateway"], bridge["hairpinMode"]]);
        assert_eq!(got, want);
        assert_eq!((&new["cniVersion"], &new["name"]), (&json!("0.3.0"), &json!("mynet")));
        assert_eq!(list, new["plugins"][1]["type"] == "portmap");
    }
}

#[test]
fn what_cannot_be_helped_is_named_and_left_alone() {
    let cases = [
        ("{", false, Trouble::NotCni),
        ("[]", true, Trouble::NotCni),
        ("7", false, Trouble::NotCni),
        (r#"{"type": "bridge", "ipam": 7}"#, false, Trouble::NotCni),
        (r#"{"type": "bridge"}"#, true, Trouble::NotCni),
        (r#"{"plugins": [{"type": "calico"}, {"type": 7}]}"#, true, Trouble::NoBridge),
        (r#"{"plugins": [{"type": "bridge"}]}"#, false, Trouble::NoBridge),
        (r#"{"type": "bridge", "ipam": {"type": "whereabouts"}}"#, false, Trouble::OtherIpam),
    ];
    for (text, list, trouble) in cases {
        assert_eq!(merge(Some(text), list, &value(&["10.1.0.0/24"], None)), Err(trouble), "{text}");
        assert_eq!(read(text, list, true), None, "{text}");
    }
}

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("fairway-cni-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("it is there");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn put(backend: &mut CniBackend, path: &str, value: FileValue) -> Outcome {
    backend.apply(&[Op::Put(path.into(), value)]).expect("an outcome")[0]
}

#[test]
fn the_file_is_replaced_as_a_whole_and_only_if_it_has_to() {
    let folder = Folder::new("replaced");
    let path = folder.file("10-kuberouter.conflist");
    let mut backend = CniBackend::new(path.as_str().into());
    assert!(backend.observe().expect("no file is no fault").is_empty());
    assert_eq!(put(&mut backend, &path, value(&["10.1.0.0/24"], Some(1500))), Outcome::Done);
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o644);
    let table = backend.observe().expect("a table");
    assert_eq!(table.into_values().collect::<Vec<_>>(), [value(&["10.1.0.0/24"], Some(1500))]);
    // An attempt that was cut off left this; and the operator is careful.
    fs::write(folder.file("10-kuberouter.conflist.fairway-new"), "half").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    assert_eq!(put(&mut backend, &path, value(&["10.2.0.0/24"], Some(1500))), Outcome::Done);
    let text = fs::read_to_string(&path).expect("it is there");
    assert!(text.contains("10.2.0.0/24") && !text.contains("10.1.0.0/24"), "{text}");
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_eq!(folder.names(), ["10-kuberouter.conflist"]);
    // What is right is not written, down to its spaces; also by a process that did not write it.
    let spaced = format!("\n{text}");
    fs::write(&path, &spaced).expect("written");
    let mut next = CniBackend::new(path.as_str().into());
    assert_eq!(next.observe().expect("a table").into_values().next(), Some(value(&["10.2.0.0/24"], Some(1500))));
    assert_eq!(put(&mut next, &path, value(&["10.2.0.0/24"], None)), Outcome::Done);
    let table = next.observe().expect("a table");
    assert_eq!(table.into_values().next(), Some(value(&["10.2.0.0/24"], None)), "the MTU is the operator's");
    assert_eq!(put(&mut next, &path, value(&["10.2.0.0/24"], Some(1500))), Outcome::Done);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), spaced);
    assert_eq!(next.observe().expect("a table").into_values().next(), Some(value(&["10.2.0.0/24"], Some(1500))));
    // Behind a link it is the file that is replaced.
    let link = folder.file("link.conflist");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    let mut linked = CniBackend::new(link.as_str().into());
    assert_eq!(put(&mut linked, &link, value(&["10.3.0.0/24"], None)), Outcome::Done);
    assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
    assert!(fs::read_to_string(&path).expect("it is there").contains("10.3.0.0/24"));
}

#[test]
fn what_the_system_refuses_is_said_and_nothing_is_lost() {
    let folder = Folder::new("refused");
    let path = folder.file("missing/10-kuberouter.conf");
    let mut backend = CniBackend::new(path.as_str().into());
    let wanted = || value(&["10.1.0.0/24"], None);
    assert_eq!(put(&mut backend, &path, wanted()), Outcome::Refused(file_errno::NO_FOLDER));
    assert_eq!(backend.apply(&[Op::Del(path.as_str().into())]), Ok(vec![Outcome::Gone]));
    let path = folder.file("10-kuberouter.conf");
    let mut backend = CniBackend::new(path.as_str().into());
    for text in [&b"{\"type\": \"calico\"}"[..], b"{", b"\xff\xfe"] {
        fs::write(&path, text).expect("written");
        assert!(backend.observe().expect("no fault").is_empty());
        let errno = if text.len() > 2 { file_errno::NO_BRIDGE } else { file_errno::NOT_CNI };
        assert_eq!(put(&mut backend, &path, wanted()), Outcome::Refused(errno));
        assert_eq!(fs::read(&path).expect("it is there"), text);
    }
    // One that is made would come before another's.
    let second = folder.file("20-second.conf");
    assert_eq!(
        put(&mut CniBackend::new(second.as_str().into()), &second, wanted()),
        Outcome::Refused(file_errno::OTHERS)
    );
    // Another file than that of the configuration is nobody's business here, and no file is deleted.
    assert_eq!(put(&mut backend, "/nowhere", wanted()), Outcome::Refused(22));
    assert_eq!(backend.apply(&[Op::Del(path.as_str().into())]), Ok(vec![Outcome::Refused(22)]));
    assert_eq!(folder.names(), ["10-kuberouter.conf"]);
}

fn network() -> impl Strategy<Value = IpNet> {
    let texts = vec!["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/16", "fd01::/64", "fd02::/64"];
    prop::sample::select(texts).prop_map(|text| text.parse().expect("a prefix"))
}

/// Something like a configuration.
fn json_of(depth: u32) -> BoxedStrategy<Value> {
    let word = prop::sample::select(vec!["type", "bridge", "host-local", "subnet", "10.1.0.9/24", "fd01::/64", "x"]);
    let leaf = prop_oneof![
        word.clone().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        Just(Value::Null),
        network().prop_map(|net| json!({"subnet": net.to_string()})),
    ];
    let key = prop::sample::select(vec!["type", "plugins", "ipam", "ranges", "subnet", "gateway", "mtu", "x"]);
    leaf.prop_recursive(depth, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(String::from), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
    .boxed()
}

proptest! {
    /// Whatever stands in a file, it is refused or has the value afterwards, and then nothing has to change again.
    #[test]
    fn what_was_merged_is_read_back(
        list in any::<bool>(),
        ipam in json_of(4),
        rest in json_of(4),
        wanted in prop::collection::btree_set(network(), 1..4),
        mtu in prop::option::of(68u32..9000),
        order in any::<bool>(),
    ) {
        let mut plugin = json!({"type": "bridge", "ipam": ipam});
        if let (Some(plugin), Some(rest)) = (plugin.as_object_mut(), rest.as_object()) {
            for (key, value) in rest.iter().filter(|(key, _)| *key != "type" && *key != "ipam") {
                plugin.insert(key.clone(), value.clone());
            }
        }
        if order && let Some(ipam) = plugin["ipam"].as_object_mut() {
            ipam.insert("type".into(), "host-local".into());
        }
        let text = if list { json!({"plugins": [rest, plugin]}) } else { plugin }.to_string();
        let mut ranges: Vec<IpNet> = wanted.into_iter().collect();
        if order {
            ranges.reverse();
        }
        let value = FileValue { ranges, mtu };
        if let Ok(merged) = merge(Some(&text), list, &value) {
            let now = merged.unwrap_or(text);
            prop_assert_eq!(read(&now, list, mtu.is_some()), Some(value.clone()), "{}", now);
            prop_assert_eq!(merge(Some(&now), list, &value), Ok(None));
        }
    }

    #[test]
    fn no_text_is_too_odd(text in any::<String>(), list in any::<bool>()) {
        let value = FileValue { ranges: vec![], mtu: None };
        prop_assert_eq!(merge(Some(&text), list, &value).ok().flatten(), None::<String>);
        prop_assert_eq!(read(&text, list, true), None::<FileValue>);
    }
}
