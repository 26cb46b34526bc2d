//! The text of a CNI configuration.

use fairway_desired::{FileValue, file_errno};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

/// What an address range of `host-local` is made of. Older configurations have one directly in `ipam`.
const RANGE: [&str; 4] = ["subnet", "rangeStart", "rangeEnd", "gateway"];

/// Why a text cannot be made what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No JSON, or not of the form of a plugin or of a list of them.
    NotCni,
    /// No plugin of type `bridge` in it.
    NoBridge,
    /// The bridge's addresses are not given by `host-local`.
    OtherIpam,
}

impl Trouble {
    /// One of [`fairway_desired::file_errno`].
    pub const fn errno(self) -> i32 {
        match self {
            Trouble::NotCni => file_errno::NOT_CNI,
            Trouble::NoBridge => file_errno::NO_BRIDGE,
            Trouble::OtherIpam => file_errno::OTHER_IPAM,
        }
    }
}

type Object = Map<String, Value>;

/// Whether a file of this name holds a list of plugins.
pub(crate) fn is_list(path: &str) -> bool {
    path.ends_with(".conflist")
}

/// The first plugin of type `bridge`.
fn bridge(whole: &mut Value, list: bool) -> Result<&mut Object, Trouble> {
    let whole = whole.as_object_mut().ok_or(Trouble::NotCni)?;
    let is_bridge = |plugin: &Object| plugin.get("type").and_then(Value::as_str) == Some("bridge");
    if !list {
        return if is_bridge(whole) { Ok(whole) } else { Err(Trouble::NoBridge) };
    }
    let plugins = whole.get_mut("plugins").and_then(Value::as_array_mut).ok_or(Trouble::NotCni)?;
    plugins.iter_mut().filter_map(Value::as_object_mut).find(|plugin| is_bridge(plugin)).ok_or(Trouble::NoBridge)
}

/// The address management of a plugin, made if it is not there.
fn ipam(plugin: &mut Object) -> Result<&mut Object, Trouble> {
    let ipam = plugin.entry("ipam").or_insert_with(|| json!({"type": "host-local"}));
    let ipam = ipam.as_object_mut().ok_or(Trouble::NotCni)?;
    match ipam.get("type") {
        Some(kind) if kind.as_str() == Some("host-local") => {}
        Some(_) => return Err(Trouble::OtherIpam),
        None => drop(ipam.insert("type".into(), "host-local".into())),
    }
    Ok(ipam)
}

/// The network of a range; `None` if it names none.
fn network(range: &Value) -> Option<IpNet> {
    range.get("subnet")?.as_str()?.parse::<IpNet>().ok()
}

/// The sets of `ranges`, each a list of ranges. What has another form is of no use to `host-local` either.
fn sets(ranges: Option<&Value>) -> Vec<Vec<Value>> {
    let sets = ranges.and_then(Value::as_array).into_iter().flatten();
    sets.filter_map(Value::as_array).cloned().collect()
}

/// The value of a text, as [`merge`] would leave it. `None` if it is of another form, so that it has to be written. With
/// `mtu` the MTU belongs to the value.
pub fn read(text: &str, list: bool, mtu: bool) -> Option<FileValue> {
    let mut whole = serde_json::from_str(text).ok()?;
    let plugin = bridge(&mut whole, list).ok()?;
    let octets = plugin.get("mtu").and_then(Value::as_u64).and_then(|octets| u32::try_from(octets).ok());
    let ipam = plugin.get("ipam")?.as_object()?;
    let plain = ipam.get("type")?.as_str()? == "host-local" && !RANGE.iter().any(|key| ipam.contains_key(*key));
    let ranges: Option<Vec<IpNet>> = sets(ipam.get("ranges")).iter().flatten().map(network).collect();
    let ranges = ranges?;
    let plain = plain && ranges.iter().all(|net| *net == net.trunc());
    plain.then_some(FileValue { ranges, mtu: octets.filter(|_| mtu) })
}

/// The text that has this value, and everything else of the old text: fields that are nobody's here, other plugins,
/// settings of the ranges that stay. Ranges of other prefixes are gone, and the older form of one range becomes the form
/// of today. Without a text it is the configuration that kube-router ships. `None`: nothing has to change.
///
/// # Errors
/// What is wrong with the old text, which is then left alone.
pub fn merge(text: Option<&str>, list: bool, value: &FileValue) -> Result<Option<String>, Trouble> {
    let old: Option<Value> = match text {
        Some(text) => Some(serde_json::from_str(text).map_err(|_| Trouble::NotCni)?),
        None => None,
    };
    let mut new = old.clone().unwrap_or_else(|| default(list));
    let plugin = bridge(&mut new, list)?;
    if let Some(mtu) = value.mtu {
        plugin.insert("mtu".into(), mtu.into());
    }
    let ipam = ipam(plugin)?;
    let mut there = sets(ipam.get("ranges"));
    let older: Object = RANGE.iter().filter_map(|key| Some(((*key).to_string(), ipam.remove(*key)?))).collect();
    if !older.is_empty() {
        there.insert(0, vec![Value::Object(older)]);
    }
    ipam.insert("ranges".into(), ranges(&there, &value.ranges));
    if old.as_ref() == Some(&new) {
        return Ok(None);
    }
    // A value of JSON has a text.
    serde_json::to_string_pretty(&new).map(|text| Some(text + "\n")).map_err(|_| Trouble::NotCni)
}

/// Range sets of these networks, in this order. Those that are there stay as they are.
fn ranges(there: &[Vec<Value>], wanted: &[IpNet]) -> Value {
    let named = |range: &Value| network(range).map(|net| net.trunc());
    let find = |net: &IpNet| there.iter().flatten().find(|range| named(range).as_ref() == Some(net)).cloned();
    let of = |net: &IpNet| match find(net) {
        Some(mut range) => {
            // `host-local` refuses bits of a host.
            if network(&range) != Some(*net)
                && let Some(range) = range.as_object_mut()
            {
                range.insert("subnet".into(), net.to_string().into());
            }
            range
        }
        None => json!({"subnet": net.to_string()}),
    };
    // An operator may have put networks together, so that a pod gets an address of one of them.
    let kept: Vec<Vec<IpNet>> = there
        .iter()
        .map(|set| set.iter().filter_map(named).filter(|net| wanted.contains(net)).collect())
        .filter(|set: &Vec<IpNet>| !set.is_empty())
        .collect();
    let flat: Vec<IpNet> = kept.iter().flatten().copied().collect();
    let sets: Vec<Vec<IpNet>> = match wanted.strip_prefix(flat.as_slice()) {
        Some(new) => kept.into_iter().chain(new.iter().map(|net| vec![*net])).collect(),
        None => wanted.iter().map(|net| vec![*net]).collect(),
    };
    sets.iter().map(|set| set.iter().map(of).collect::<Value>()).collect()
}

/// What kube-router's manifests bring along, with hairpin, which services need when a pod is its own endpoint.
fn default(list: bool) -> Value {
    let mut bridge = json!({
        "type": "bridge", "bridge": "kube-bridge", "isDefaultGateway": true, "hairpinMode": true,
        "ipam": {"type": "host-local"},
    });
    if list {
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true, "snat": true}});
        return json!({"cniVersion": "0.3.0", "name": "mynet", "plugins": [bridge, portmap]});
    }
    if let Some(bridge) = bridge.as_object_mut() {
        bridge.insert("cniVersion".into(), "0.3.0".into());
        bridge.insert("name".into(), "mynet".into());
    }
    bridge
}
