//! kube-router's command line, read into a [`NodeConfig`].
//!
//! Names, types, defaults and value syntax are kube-router's (pflag: `--x`, `--x=false`, repeated and comma
//! separated lists). The table [`FLAGS`] says for each flag what it does here. A flag whose feature is not built
//! yet is refused by name when it asks for that feature, so that nobody believes in something that is not there.

mod about;
mod differences;
mod sources;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use fairway_objects::{
    BfdConfig, BgpPeer, GracefulRestart, LoadBalancerConfig, NodeConfig, Notice, Overlay, RouterIdSource, Subject,
};
use ipnet::IpNet;

pub(crate) use about::{command as node_command, help};
pub(crate) use differences::run as differences;

/// Why a list of flags cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlagError {
    /// Which element of the list is wrong; `None` where only their combination is.
    pub(crate) index: Option<usize>,
    /// One clear sentence.
    pub(crate) message: String,
}

/// Syntax of a flag's value.
#[derive(Clone, Copy)]
enum Syntax {
    Bool,
    Text,
    Number(u64, u64),
    ClusterAsn,
    Asns,
    Ips,
    Cidrs,
    Texts,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A Go duration of whole seconds.
    Seconds,
    /// A Go duration above zero.
    Period,
    PortRange,
    HttpPath,
    UnixSocket,
    RouterId,
}

impl Syntax {
    fn is_list(self) -> bool {
        matches!(self, Syntax::Asns | Syntax::Ips | Syntax::Cidrs | Syntax::Texts)
    }
}

/// What a flag does in this version.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It works.
    Works,
    /// The feature is not built yet: only this value is accepted. With another default, a notice says so.
    Only(&'static str),
    /// It is about the daemon's process (files, ports, logs); a simulated node has none.
    Process,
    /// An older kube-router had it; it never has an effect.
    Gone,
}

use Effect::{Gone, Only, Process, Works};

/// name, syntax, kube-router's default, effect
type Flag = (&'static str, Syntax, &'static str, Effect);

const FLAGS: &[Flag] = &[
    ("advertise-cluster-ip", Syntax::Bool, "false", Works),
    ("advertise-external-ip", Syntax::Bool, "false", Works),
    ("advertise-loadbalancer-ip", Syntax::Bool, "false", Works),
    ("advertise-pod-cidr", Syntax::Bool, "true", Works),
    ("auto-mtu", Syntax::Bool, "true", Works),
    ("bfd-desired-min-tx-interval", Syntax::Number(1, 4_294_967), "1000", Works),
    ("bfd-detection-multiplier", Syntax::Number(1, 255), "3", Works),
    ("bfd-port", Syntax::Number(1, 65535), "3784", Works),
    ("bfd-required-min-rx-interval", Syntax::Number(1, 4_294_967), "1000", Works),
    ("bgp-drain-time", Syntax::Seconds, "3s", Process),
    ("bgp-graceful-restart", Syntax::Bool, "false", Works),
    ("bgp-graceful-restart-deferral-time", Syntax::Seconds, "6m0s", Works),
    ("bgp-graceful-restart-time", Syntax::Seconds, "1m30s", Works),
    ("bgp-holdtime", Syntax::Seconds, "1m30s", Works),
    ("bgp-import-default-route", Syntax::Bool, "false", Works),
    ("bgp-long-lived-stale-time", Syntax::Seconds, "0s", Works),
    ("bgp-multipath-relax", Syntax::Bool, "true", Works),
    ("bgp-port", Syntax::Number(1, 65535), "179", Works),
    ("bgp-route-metric", Syntax::Number(0, 4_294_967_295), "0", Works),
    ("cache-sync-timeout", Syntax::Period, "1m0s", Process),
    ("cleanup-config", Syntax::Bool, "false", Process),
    ("cluster-asn", Syntax::ClusterAsn, "0", Works),
    ("cluster-cidr", Syntax::Text, "", Gone),
    ("config", Syntax::Text, "", Process),
    ("config-sync-period", Syntax::Text, "", Gone),
    ("disable-source-dest-check", Syntax::Bool, "true", Process),
    ("dry-run", Syntax::Bool, "false", Process),
    ("enable-bfd", Syntax::Bool, "false", Works),
    ("enable-cni", Syntax::Bool, "true", Works),
    ("enable-ibgp", Syntax::Bool, "true", Works),
    ("enable-ipv4", Syntax::Bool, "true", Works),
    ("enable-ipv6", Syntax::Bool, "false", Works),
    ("enable-overlay", Syntax::Bool, "true", Works),
    ("enable-pod-egress", Syntax::Bool, "true", Works),
    ("enable-pprof", Syntax::Bool, "false", Works),
    ("excluded-cidrs", Syntax::Cidrs, "", Works),
    ("from-kube-router", Syntax::Bool, "false", Process),
    ("gobgp-admin-address", Syntax::Text, "127.0.0.1", Works),
    ("gobgp-admin-port", Syntax::Number(0, 65535), "50051", Works),
    ("hairpin-mode", Syntax::Bool, "false", Works),
    ("health-addr", Syntax::Text, "", Works),
    ("health-port", Syntax::Number(0, 65535), "20244", Works),
    ("hostname-override", Syntax::Text, "", Process),
    ("injected-routes-sync-period", Syntax::Period, "1m0s", Works),
    ("iptables-sync-period", Syntax::Period, "5m0s", Process),
    ("ipvs-graceful-period", Syntax::Period, "30s", Process),
    ("ipvs-graceful-termination", Syntax::Bool, "false", Only("false")),
    ("ipvs-permit-all", Syntax::Bool, "true", Works),
    ("ipvs-sync-period", Syntax::Period, "5m0s", Works),
    ("kubeconfig", Syntax::Text, "", Process),
    ("loadbalancer-default-class", Syntax::Bool, "true", Works),
    ("loadbalancer-ip-range", Syntax::Cidrs, "", Works),
    ("loadbalancer-sync-period", Syntax::Period, "1m0s", Works),
    ("manifests", Syntax::Text, "", Process),
    ("masquerade-all", Syntax::Bool, "false", Works),
    ("master", Syntax::Text, "", Process),
    ("metrics-addr", Syntax::Text, "", Works),
    ("metrics-path", Syntax::HttpPath, "/metrics", Works),
    ("metrics-port", Syntax::Number(0, 65535), "0", Works),
    ("netpol-default-deny", Syntax::Bool, "false", Only("false")),
    ("nodeport-bindon-all-ip", Syntax::Bool, "false", Works),
    ("nodes-full-mesh", Syntax::Bool, "true", Works),
    ("output", Syntax::Choice(&["text", "json"]), "text", Process),
    ("overlay-encap", Syntax::Choice(&["ipip", "fou"]), "ipip", Works),
    ("overlay-encap-port", Syntax::Number(1024, 65535), "5555", Works),
    ("overlay-type", Syntax::Choice(&["subnet", "full"]), "subnet", Works),
    ("override-nexthop", Syntax::Bool, "false", Works),
    ("peer-router-asns", Syntax::Asns, "", Works),
    ("peer-router-ips", Syntax::Ips, "", Works),
    ("peer-router-multihop-ttl", Syntax::Number(0, 255), "0", Works),
    ("peer-router-passwords", Syntax::Texts, "", Works),
    ("peer-router-passwords-file", Syntax::Text, "", Works),
    ("peer-router-ports", Syntax::Texts, "", Works),
    ("proc-sys", Syntax::Text, "/proc/sys", Process),
    ("record", Syntax::Text, "", Process),
    ("record-limit", Syntax::Number(1, 1_048_576), "256", Process),
    ("router-id", Syntax::RouterId, "", Works),
    ("routes-sync-period", Syntax::Period, "5m0s", Works),
    ("run-firewall", Syntax::Bool, "true", Only("false")),
    ("run-loadbalancer", Syntax::Bool, "false", Works),
    ("run-router", Syntax::Bool, "true", Works),
    ("run-service-proxy", Syntax::Bool, "true", Works),
    ("runtime-endpoint", Syntax::UnixSocket, "", Process),
    ("service-cluster-ip-range", Syntax::Cidrs, "10.96.0.0/12", Works),
    ("service-external-ip-range", Syntax::Cidrs, "", Works),
    ("service-node-port-range", Syntax::PortRange, "30000-32767", Works),
    ("service-tcp-timeout", Syntax::Seconds, "0s", Works),
    ("service-tcpfin-timeout", Syntax::Seconds, "0s", Works),
    ("service-udp-timeout", Syntax::Seconds, "0s", Works),
    ("strict-external-ip-validation", Syntax::Bool, "true", Works),
    ("use-nftables-for-netpol", Syntax::Bool, "false", Process),
    ("v", Syntax::Number(0, 2_147_483_647), "0", Process),
];

/// Where the Lease of the allocator is if nobody says otherwise: where kube-router's DaemonSet runs.
pub(crate) const LEASE_NAMESPACE: &str = "kube-system";

/// Longest timeout of IPVS: what the kernel takes with 1000 clock ticks a second.
const MAX_TIMEOUT_S: u64 = 2_147_483;

/// Flags of the first versions of kube-router under their names of today. To pass over them would lose neighbours.
const RENAMED: &[(&str, &str)] = &[("peer-asn", "peer-router-asns"), ("peer-router", "peer-router-ips")];

const TRUE: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];
const FALSE: [&str; 6] = ["0", "f", "F", "FALSE", "false", "False"];

fn seconds(text: &str) -> Result<u64, String> {
    let duration = fairway_mconnect::parse_duration(text)
        .map_err(|_| "a Go duration is needed, for example 90s or 1m30s".to_string())?;
    if duration.subsec_nanos() != 0 {
        return Err("whole seconds are needed, for example 90s or 1m30s".into());
    }
    Ok(duration.as_secs())
}

/// A duration above zero: kube-router ends with a panic at anything else.
fn period(text: &str) -> Result<Duration, String> {
    match fairway_mconnect::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("a Go duration above 0s is needed, for example 500ms or 1m30s".into()),
    }
}

/// Go's `strconv.ParseUint(text, 0, 64)`, as pflag reads numbers.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', b'o' | b'O', ..] => (&text[2..], 8),
        [b'0', b'b' | b'B', ..] => (&text[2..], 2),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let ends = text.split_once(['-', ':']);
    let ends = ends.and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
    ends.filter(|(low, high)| low < high && *low > 0)
        .ok_or_else(|| "two ports are needed, the lower one first, for example 30000-32767".into())
}

fn http_path(text: &str) -> Result<String, String> {
    let usable = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#');
    if usable { Ok(text.into()) } else { Err("a path that begins with / is needed, for example /metrics".into()) }
}

fn unix_socket(text: &str) -> Result<String, String> {
    let usable = text.is_empty() || text.strip_prefix("unix://").is_some_and(|path| path.starts_with('/'));
    let wanted = "a socket is needed, for example unix:///run/containerd/containerd.sock";
    if usable { Ok(text.into()) } else { Err(wanted.into()) }
}

fn asn(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0 | 23456 | 64000..=64511 | 65535..=131_071 | u32::MAX) => {
            Err("this number is reserved; use 1-23455, 23457-63999, 64512-65534 or 131072-4294967294".into())
        }
        Ok(asn) => Ok(asn),
        Err(_) => Err("an autonomous system number is needed, for example 65001".into()),
    }
}

fn cluster_asn(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n @ (0 | 64512..=65535 | 4_200_000_000..=4_294_967_294)) => Ok(n),
        _ => Err("a private number is needed: 64512-65535 or 4200000000-4294967294 (0 stands for 64512)".into()),
    }
}

fn router_id(text: &str) -> Result<RouterIdSource, String> {
    match text {
        "" => Ok(RouterIdSource::PrimaryIpv4),
        "generate" => Ok(RouterIdSource::Generate),
        other => other
            .parse::<Ipv4Addr>()
            .map(RouterIdSource::Fixed)
            .map_err(|_| "an IPv4 address or `generate` is needed".into()),
    }
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "an IP address is needed, for example 192.168.1.201".into())
}

fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>().map(|n| n.trunc()).map_err(|_| "a CIDR is needed, for example 10.0.0.0/24".into())
}

/// The parser of one flag. Lists may be empty (`--x=`), repeated and comma separated.
fn arg(&(name, syntax, default, _): &Flag) -> Arg {
    let one = Arg::new(name).long(name).action(ArgAction::Set).num_args(1).overrides_with(name);
    let one = if name == "v" { one.short('v') } else { one };
    let list = || Arg::new(name).long(name).action(ArgAction::Append).num_args(1).value_delimiter(',');
    match syntax {
        Syntax::Bool => one
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value(default)
            .value_parser(PossibleValuesParser::new(TRUE.iter().chain(&FALSE)).map(|v| TRUE.contains(&&*v))),
        Syntax::Text => one.default_value(default),
        Syntax::Choice(words) => one.default_value(default).value_parser(PossibleValuesParser::new(words)),
        Syntax::Number(min, max) => one.default_value(default).value_parser(move |text: &str| {
            number(text).filter(|n| (min..=max).contains(n)).ok_or(format!("a number from {min} to {max} is needed"))
        }),
        Syntax::ClusterAsn => one.default_value(default).value_parser(cluster_asn),
        Syntax::Seconds => one.default_value(default).value_parser(seconds),
        Syntax::Period => one.default_value(default).value_parser(period),
        Syntax::PortRange => one.default_value(default).value_parser(port_range),
        Syntax::HttpPath => one.default_value(default).value_parser(http_path),
        Syntax::UnixSocket => one.default_value(default).value_parser(unix_socket),
        Syntax::RouterId => one.default_value(default).value_parser(router_id),
        Syntax::Asns => list().value_parser(asn),
        Syntax::Ips => list().value_parser(ip),
        Syntax::Cidrs => list().value_parser(cidr),
        Syntax::Texts => list(),
    }
}

fn command() -> Command {
    Command::new("fairway")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(FLAGS.iter().map(arg))
}

/// clap's message without its decoration: one line, the cause first.
fn clean(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines().filter(|l| !l.trim().is_empty());
    let mut message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_string();
    for line in lines {
        let line = line.trim();
        if line.starts_with("tip:") || line.starts_with('[') {
            message.push_str("; ");
            message.push_str(line.trim_start_matches("tip: "));
        }
    }
    message
}

fn list<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Vec<T> {
    matches.get_many::<T>(name).map(|values| values.cloned().collect()).unwrap_or_default()
}

fn one<T: Clone + Default + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> T {
    matches.get_one::<T>(name).cloned().unwrap_or_default()
}

/// What a list of flags means, for a node without a name.
type Parsed = Result<(NodeConfig, Vec<Notice>), Vec<FlagError>>;

thread_local! {
    /// Lists that were read before. All nodes of a scenario share one, and clap builds its parser anew for each.
    static READ: RefCell<BTreeMap<Vec<String>, Parsed>> = const { RefCell::new(BTreeMap::new()) };
}

/// Reads kube-router flags for the node `node_name`.
///
/// # Errors
/// Every flag that is wrong by itself, each with its place in the list; else what is wrong in their combination.
pub(crate) fn parse(node_name: &str, flags: &[String]) -> Parsed {
    let known = READ.with_borrow(|read| read.get(flags).cloned());
    let parsed = known.unwrap_or_else(|| {
        let parsed = read(flags);
        READ.with_borrow_mut(|read| read.insert(flags.to_vec(), parsed.clone()));
        parsed
    });
    let (mut config, notices) = parsed?;
    if let Some(ours) = &mut config.load_balancer {
        ours.identity = node_name.into();
    }
    Ok((NodeConfig { node_name: node_name.into(), ..config }, notices))
}

/// What the daemon's own command line says.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// The agent's configuration; its node name is `--hostname-override`, or empty.
    pub(crate) config: NodeConfig,
    /// What its operator should know.
    pub(crate) notices: Vec<Notice>,
    /// `--manifests`: a folder in place of a cluster. Ours.
    pub(crate) manifests: Option<PathBuf>,
    /// `--master`, or empty.
    pub(crate) master: String,
    /// `--kubeconfig`, or empty.
    pub(crate) kubeconfig: String,
    /// `--cache-sync-timeout`
    pub(crate) cache_sync_timeout: Duration,
    /// `--bgp-drain-time` in seconds: between asking neighbours to go around us and ending the sessions. Ours.
    pub(crate) drain_s: u64,
    /// `-v`
    pub(crate) verbosity: u64,
    /// `--proc-sys`: the folder of kernel parameters. Ours.
    pub(crate) proc_sys: PathBuf,
    /// `--runtime-endpoint`: the container runtime, for direct server return; or empty.
    pub(crate) runtime_endpoint: String,
    /// What an operator wants of it besides.
    pub(crate) tools: Tools,
}

/// The operator's tools of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tools {
    /// `--cleanup-config`
    pub(crate) cleanup: bool,
    /// `--from-kube-router`. Ours.
    pub(crate) from_kube_router: bool,
    /// `--dry-run`. Ours.
    pub(crate) dry_run: bool,
    /// `--output=json`. Ours.
    pub(crate) json: bool,
    /// `--record` and `--record-limit` in octets. Ours.
    pub(crate) record: Option<(PathBuf, u64)>,
}

impl Tools {
    fn new(m: &ArgMatches) -> Result<Tools, String> {
        let record: String = one(m, "record");
        let tools = Tools {
            cleanup: one(m, "cleanup-config"),
            from_kube_router: one(m, "from-kube-router"),
            dry_run: one(m, "dry-run"),
            json: one::<String>(m, "output") == "json",
            record: (!record.is_empty()).then(|| (PathBuf::from(record), one::<u64>(m, "record-limit") << 20)),
        };
        let both = |flag: &str, other: &str| Err(format!("--{flag} and --{other} exclude each other"));
        match &tools {
            Tools { cleanup: true, dry_run: true, .. } => both("cleanup-config", "dry-run"),
            Tools { cleanup: true, record: Some(_), .. } => both("cleanup-config", "record"),
            Tools { dry_run: true, record: Some(_), .. } => both("dry-run", "record"),
            Tools { cleanup: false, from_kube_router: true, .. } => {
                Err("--from-kube-router goes with --cleanup-config".into())
            }
            Tools { cleanup: false, dry_run: false, json: true, .. } => {
                Err("--output goes with --dry-run or --cleanup-config".into())
            }
            _ => Ok(tools),
        }
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// `-h`
    Help,
    /// `-V`
    Version,
    /// To run.
    Run(Box<Daemon>),
}

/// Flags about the process that do something in the daemon.
const PROCESS_BUILT: &[&str] = &[
    "bgp-drain-time",
    "cache-sync-timeout",
    "cleanup-config",
    "config",
    "dry-run",
    "from-kube-router",
    "hostname-override",
    "kubeconfig",
    "manifests",
    "master",
    "output",
    "proc-sys",
    "record",
    "record-limit",
    "runtime-endpoint",
    "v",
];

/// Where the CNI configuration is, as kube-router is told.
const CNI_FILE: &str = "KUBE_ROUTER_CNI_CONF_FILE";

fn cni_file(environment: &[(String, String)]) -> Result<Arc<str>, Vec<FlagError>> {
    let given = environment.iter().find(|(name, value)| name == CNI_FILE && !value.is_empty());
    let path = given.map_or("/etc/cni/net.d/10-kuberouter.conf", |(_, path)| path);
    if path.starts_with('/') && !path.ends_with('/') {
        return Ok(path.into());
    }
    let message = format!("environment variable {CNI_FILE}: `{path}` is not the absolute path of a file");
    Err(vec![FlagError { index: None, message }])
}

/// Reads the daemon's command line, with what `environment` and `--config` say below it. As with pflag, a value may
/// stand behind its flag as a word of its own.
///
/// # Errors
/// As [`parse`]; a mistake in the file or the environment with its place before it.
pub(crate) fn daemon(args: &[String], environment: &[(String, String)]) -> Result<Asked, Vec<FlagError>> {
    let words = match sources::command_line(args)? {
        sources::Line::Help => return Ok(Asked::Help),
        sources::Line::Version => return Ok(Asked::Version),
        sources::Line::Words(words) => words,
    };
    let words = sources::all(words, environment)?;
    let flags: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
    let (config, mut notices) = parse("", &flags).map_err(|errors| sources::placed(errors, &words))?;
    let together = |e: clap::Error| vec![FlagError { index: None, message: clean(&e) }];
    let matches = command().try_get_matches_from(flags.iter().filter(|flag| !is_empty_list(flag)));
    let matches = matches.map_err(together)?;
    for &(name, _, _, effect) in FLAGS {
        let given = matches.value_source(name) == Some(ValueSource::CommandLine);
        if given && effect == Process && !PROCESS_BUILT.contains(&name) {
            let reason = "not built yet: it has no effect".to_string();
            notices.push(Notice { subject: Subject::Flag(name.into()), field: String::new(), reason });
        }
    }
    let manifests: String = one(&matches, "manifests");
    let cni_file = cni_file(environment)?;
    let node_name = one::<String>(&matches, "hostname-override").into();
    let config = NodeConfig { node_name, cni_file: Some(cni_file), ..config };
    Ok(Asked::Run(Box::new(Daemon {
        config,
        notices,
        manifests: Some(manifests).filter(|m| !m.is_empty()).map(PathBuf::from),
        master: one(&matches, "master"),
        kubeconfig: one(&matches, "kubeconfig"),
        cache_sync_timeout: one(&matches, "cache-sync-timeout"),
        drain_s: one(&matches, "bgp-drain-time"),
        verbosity: one(&matches, "v"),
        proc_sys: one::<String>(&matches, "proc-sys").into(),
        runtime_endpoint: one(&matches, "runtime-endpoint"),
        tools: Tools::new(&matches).map_err(|message| vec![FlagError { index: None, message }])?,
    })))
}

fn read(flags: &[String]) -> Parsed {
    let mut errors = vec![];
    let mut command = command();
    for (index, flag) in flags.iter().enumerate() {
        if is_empty_list(flag) {
            continue;
        }
        if !flag.starts_with('-') {
            errors.push(FlagError {
                index: Some(index),
                message: format!("`{flag}` is not a flag; a flag's value is written with `=`, as in --run-router=true"),
            });
            continue;
        }
        match command.try_get_matches_from_mut([flag]) {
            Ok(matches) => {
                errors.extend(unbuilt(&matches).into_iter().map(|message| FlagError { index: Some(index), message }))
            }
            Err(error) => {
                let name = flag.trim_start_matches('-').split('=').next().unwrap_or_default();
                let message = match RENAMED.iter().find(|(old, _)| *old == name) {
                    Some((old, new)) => format!("--{old} is called --{new} today"),
                    None => clean(&error),
                };
                errors.push(FlagError { index: Some(index), message });
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let together = |message: String| vec![FlagError { index: None, message }];
    let flags = flags.iter().filter(|flag| !is_empty_list(flag));
    let matches = command.try_get_matches_from_mut(flags).map_err(|e| together(clean(&e)))?;
    let config = config(&matches).map_err(together)?;
    Ok((config, notices(&matches)))
}

/// Whether a word is a list without entries (`--excluded-cidrs=`), which is as good as none.
fn is_empty_list(word: &str) -> bool {
    let name = word.strip_prefix("--").and_then(|rest| rest.strip_suffix('='));
    name.is_some_and(|name| FLAGS.iter().any(|&(known, syntax, ..)| known == name && syntax.is_list()))
}

/// Flags on this command line that ask for a feature that is not built.
fn unbuilt(matches: &ArgMatches) -> Vec<String> {
    let mut errors = vec![];
    for &(name, syntax, _, effect) in FLAGS {
        let Only(accepted) = effect else { continue };
        if matches.value_source(name) != Some(ValueSource::CommandLine) {
            continue;
        }
        let asks = match syntax {
            Syntax::Bool => one::<bool>(matches, name) != (accepted == "true"),
            Syntax::Seconds => one::<u64>(matches, name) != 0,
            Syntax::Texts => list::<String>(matches, name).iter().any(|v| !v.is_empty()),
            _ => one::<String>(matches, name) != accepted,
        };
        if asks {
            errors.push(format!("--{name} is not built yet; only --{name}={accepted} is accepted"));
        }
    }
    errors
}

/// What an operator of kube-router should know about the flags in effect.
fn notices(matches: &ArgMatches) -> Vec<Notice> {
    let notice =
        |name: &str, reason: String| Notice { subject: Subject::Flag(name.into()), field: String::new(), reason };
    let given = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
    FLAGS
        .iter()
        .filter_map(|&(name, _, default, effect)| match effect {
            Only(accepted) if default != accepted && !given(name) => Some(notice(
                name,
                format!("not built yet: kube-router's default is {default}, in effect is {accepted}"),
            )),
            Gone if given(name) => Some(notice(name, "current kube-router has no such flag; it has no effect".into())),
            _ => None,
        })
        .collect()
}

fn config(m: &ArgMatches) -> Result<NodeConfig, String> {
    let hold = one::<u64>(m, "bgp-holdtime");
    let bgp_hold_s = u16::try_from(hold)
        .ok()
        .filter(|s| *s >= 3)
        .ok_or("--bgp-holdtime must be between 3s and 18h12m15s (65535s)")?;
    let ips: Vec<IpAddr> = list(m, "peer-router-ips");
    let asns: Vec<u32> = list(m, "peer-router-asns");
    let ports: Vec<String> = list::<String>(m, "peer-router-ports").into_iter().filter(|p| !p.is_empty()).collect();
    if ips.len() != asns.len() {
        return Err(format!(
            "--peer-router-ips has {} entries and --peer-router-asns has {}; each peer needs one of both",
            ips.len(),
            asns.len()
        ));
    }
    if !ports.is_empty() && ports.len() != ips.len() {
        return Err(format!(
            "--peer-router-ports has {} entries for {} peers; give none or one for each",
            ports.len(),
            ips.len()
        ));
    }
    let passwords = passwords(m, ips.len())?;
    let small = |name| u16::try_from(one::<u64>(m, name)).unwrap_or_default();
    let word = |name| u32::try_from(one::<u64>(m, name)).unwrap_or_default();
    let bfd = one::<bool>(m, "enable-bfd").then(|| BfdConfig {
        port: small("bfd-port"),
        desired_min_tx_ms: word("bfd-desired-min-tx-interval"),
        required_min_rx_ms: word("bfd-required-min-rx-interval"),
        multiplier: u8::try_from(small("bfd-detection-multiplier")).unwrap_or_default(),
    });
    let mut peers = vec![];
    for (i, (address, asn)) in ips.into_iter().zip(asns).enumerate() {
        let port = match ports.get(i) {
            None => 179,
            Some(text) => text
                .parse()
                .ok()
                .filter(|p: &u16| *p != 0)
                .ok_or_else(|| format!("--peer-router-ports: `{text}` is not a port (1-65535)"))?,
        };
        peers.push(BgpPeer { port, password: passwords.get(i).cloned().flatten(), bfd, ..BgpPeer::new(address, asn) });
    }
    let run_router: bool = one(m, "run-router");
    let run_service_proxy: bool = one(m, "run-service-proxy");
    let load_balancer = one::<bool>(m, "run-loadbalancer").then(|| LoadBalancerConfig {
        default_class: one(m, "loadbalancer-default-class"),
        sync_period_ms: u64::try_from(one::<Duration>(m, "loadbalancer-sync-period").as_millis()).unwrap_or(u64::MAX),
        lease_namespace: LEASE_NAMESPACE.into(),
        // The node's name, unless the daemon knows better.
        identity: "".into(),
    });
    if !run_router && !run_service_proxy && load_balancer.is_none() {
        return Err("nothing to do: none of --run-router, --run-service-proxy and --run-loadbalancer is on".into());
    }
    let default = NodeConfig::new("");
    let cluster_range: Vec<IpNet> = list(m, "service-cluster-ip-range");
    Ok(NodeConfig {
        run_router,
        run_service_proxy,
        enable_ipv4: one(m, "enable-ipv4"),
        enable_ipv6: one(m, "enable-ipv6"),
        enable_ibgp: one(m, "enable-ibgp"),
        nodes_full_mesh: one(m, "nodes-full-mesh"),
        advertise_cluster_ip: one(m, "advertise-cluster-ip"),
        advertise_external_ip: one(m, "advertise-external-ip"),
        advertise_load_balancer_ip: one(m, "advertise-loadbalancer-ip"),
        advertise_pod_cidr: one(m, "advertise-pod-cidr"),
        cluster_asn: Some(one::<u32>(m, "cluster-asn")).filter(|n| *n != 0),
        peers,
        bgp_port: small("bgp-port"),
        bgp_hold_s,
        router_id: m.get_one("router-id").copied().unwrap_or(default.router_id),
        override_next_hop: one(m, "override-nexthop"),
        multihop_ttl: u8::try_from(small("peer-router-multihop-ttl")).unwrap_or_default(),
        graceful_restart: graceful_restart(m)?,
        import_default_route: one(m, "bgp-import-default-route"),
        multipath_relax: one(m, "bgp-multipath-relax"),
        route_metric: word("bgp-route-metric"),
        overlay: one::<bool>(m, "enable-overlay").then(|| Overlay {
            full: one::<String>(m, "overlay-type") == "full",
            port: (one::<String>(m, "overlay-encap") == "fou").then(|| small("overlay-encap-port")),
        }),
        overlay_port: small("overlay-encap-port"),
        admin: admin(m),
        health: listen(m, "health-addr", "health-port")?,
        metrics: metrics(m)?,
        pprof: one(m, "enable-pprof"),
        node_port_on_all: one(m, "nodeport-bindon-all-ip"),
        node_port_range: m
            .get_one("service-node-port-range")
            .copied()
            .filter(|_| m.value_source("service-node-port-range") == Some(ValueSource::CommandLine)),
        ipvs_timeouts_s: timeouts(m)?,
        ipvs_sync: one(m, "ipvs-sync-period"),
        routes_sync: one::<Duration>(m, "routes-sync-period").min(one(m, "injected-routes-sync-period")),
        enable_cni: one(m, "enable-cni"),
        auto_mtu: one(m, "auto-mtu"),
        enable_pod_egress: one(m, "enable-pod-egress"),
        hairpin_mode: one(m, "hairpin-mode"),
        masquerade_all: one(m, "masquerade-all"),
        ipvs_permit_all: one(m, "ipvs-permit-all"),
        excluded_cidrs: list(m, "excluded-cidrs"),
        service_cluster_ip_range: if cluster_range.is_empty() {
            default.service_cluster_ip_range.clone()
        } else {
            cluster_range
        },
        service_external_ip_range: list(m, "service-external-ip-range"),
        load_balancer_ip_range: list(m, "loadbalancer-ip-range"),
        strict_external_ip_validation: one(m, "strict-external-ip-validation"),
        load_balancer,
        ..default
    })
}

/// `--peer-router-passwords`, or else the line in `--peer-router-passwords-file`: base64, one for each peer or none.
fn passwords(m: &ArgMatches, peers: usize) -> Result<Vec<Option<String>>, String> {
    let mut flag = "--peer-router-passwords";
    let mut texts: Vec<String> = list(m, "peer-router-passwords");
    if texts.iter().all(String::is_empty) {
        let file = one::<String>(m, "peer-router-passwords-file");
        if file.is_empty() {
            return Ok(vec![]);
        }
        flag = "--peer-router-passwords-file";
        let line = std::fs::read_to_string(&file).map_err(|error| format!("{flag}: {file}: {error}"))?;
        texts = line.trim().split(',').map(|t| t.trim().to_string()).collect();
    }
    if texts.len() != peers {
        return Err(format!("{flag} has {} entries for {peers} peers; give none or one for each", texts.len()));
    }
    texts
        .into_iter()
        .enumerate()
        .map(|(i, text)| match text.as_str() {
            "" => Ok(None),
            // The text itself is a secret, so it is not shown.
            text => fairway_decode::base64(text).map(Some).ok_or(format!("{flag}: entry {} is not base64 text", i + 1)),
        })
        .collect()
}

/// The timeouts of IPVS, in seconds. What it cannot count in its clock ticks is refused by the kernel, as a notice.
fn timeouts(m: &ArgMatches) -> Result<[u64; 3], String> {
    let flags = ["service-tcp-timeout", "service-tcpfin-timeout", "service-udp-timeout"];
    let times = flags.map(|flag| one::<u64>(m, flag));
    match flags.iter().zip(times).find(|(_, time)| *time > MAX_TIMEOUT_S) {
        Some((flag, _)) => Err(format!("--{flag} must be at most {MAX_TIMEOUT_S}s")),
        None => Ok(times),
    }
}

/// kube-router looks at the times only where graceful restart is on.
fn graceful_restart(m: &ArgMatches) -> Result<Option<GracefulRestart>, String> {
    if !one::<bool>(m, "bgp-graceful-restart") {
        return Ok(None);
    }
    let time = one::<u64>(m, "bgp-graceful-restart-time");
    let time_s = u16::try_from(time)
        .ok()
        .filter(|s| (1..=4095).contains(s))
        .ok_or("--bgp-graceful-restart-time must be between 1s and 1h8m15s (4095s)")?;
    let defer = one::<u64>(m, "bgp-graceful-restart-deferral-time");
    let defer_s = u32::try_from(defer)
        .ok()
        .filter(|s| (1..=64_800).contains(s))
        .ok_or("--bgp-graceful-restart-deferral-time must be between 1s and 18h")?;
    let long = one::<u64>(m, "bgp-long-lived-stale-time");
    let long_lived_s = u32::try_from(long)
        .ok()
        .filter(|s| *s <= 0x00ff_ffff)
        .ok_or("--bgp-long-lived-stale-time must be at most 16777215s")?;
    Ok(Some(GracefulRestart { time_s, defer_s, long_lived_s }))
}

/// An address and a port to listen on; an empty address means all of them, port 0 nowhere.
fn listen(m: &ArgMatches, address: &str, port: &str) -> Result<Option<SocketAddr>, String> {
    let Some(port) = u16::try_from(one::<u64>(m, port)).ok().filter(|port| *port != 0) else { return Ok(None) };
    let text = one::<String>(m, address);
    // kube-router wants IPv6 addresses in brackets.
    let ip = match text.trim_matches(['[', ']']) {
        "" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        bare => bare.parse().map_err(|_| format!("--{address}: `{text}` is not an IP address"))?,
    };
    Ok(Some(SocketAddr::new(ip, port)))
}

fn metrics(m: &ArgMatches) -> Result<Option<(SocketAddr, String)>, String> {
    let path = one::<String>(m, "metrics-path");
    if !path.starts_with('/') || path.contains(['{', '}', '*', '?', '#']) {
        return Err(format!("--metrics-path: `{path}` must begin with `/` and be a plain path"));
    }
    Ok(listen(m, "metrics-addr", "metrics-port")?.map(|address| (address, path)))
}

/// Where the `gobgp` client is answered. As for kube-router, port 0 means nowhere, what is no address means loopback
/// only, and an address other than loopback does not take loopback away.
fn admin(m: &ArgMatches) -> Vec<SocketAddr> {
    let Some(port) = u16::try_from(one::<u64>(m, "gobgp-admin-port")).ok().filter(|port| *port != 0) else {
        return vec![];
    };
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let address = one::<String>(m, "gobgp-admin-address").parse().unwrap_or(loopback);
    let mut addresses = vec![SocketAddr::new(address, port)];
    if !address.is_loopback() && !address.is_unspecified() {
        addresses.push(SocketAddr::new(loopback, port));
    }
    addresses
}
