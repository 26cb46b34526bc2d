//! The operator's tools of the daemon: `--cleanup-config` and `--dry-run`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use fairway_agent::Input;
use fairway_node::{
    Change, ChangeKind, Leftover, Node, Only, Part, Plan, PodSpaces, RealKernel, Recording, Watched, leftovers,
    remove_leftovers, replaced,
};
use fairway_objects::{Delta, NodeConfig};
use serde_json::{Value, json};

use crate::USAGE;
use crate::flags::Tools;
use crate::node::{Failed, log};

/// Objects that wait for the plan.
const QUEUE: usize = 1024;

/// Prints a line. Whoever takes the output may be gone.
fn say(text: &str) {
    let _gone = writeln!(io::stdout(), "{text}");
}

/// Removes what is ours, and prints each entry.
pub(crate) fn clean_up(config: &NodeConfig, pods: Option<PodSpaces>, tools: &Tools) -> Result<(), Failed> {
    // A daemon that runs would put everything back.
    let _only = Only::claim().map_err(Failed::late)?;
    let mut removed: Vec<Value> = vec![];
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut note = |of: &'static str, what: &str| {
        *counts.entry(of).or_default() += 1;
        if tools.json {
            removed.push(json!({"of": of, "what": what}));
        } else {
            say(&format!("removed {of} {what}"));
        }
    };
    let end =
        fairway_node::clean_up(config, pods, |entry| note(entry.plane.as_str(), &entry.key)).map_err(Failed::late)?;
    let mut left: Vec<String> = vec![];
    if tools.from_kube_router {
        let each = |leftover: &Leftover, result: &Result<(), String>| match result {
            Ok(()) => note("of kube-router:", &leftover.to_string()),
            Err(reason) => left.push(format!("of kube-router: {leftover}: {reason}")),
        };
        remove_leftovers(&Part::ALL, each).map_err(Failed::late)?;
    }
    left.extend(end.left.iter().map(|(plane, key, outcome)| format!("{} {key}: {outcome:?}", plane.as_str())));
    left.extend(end.faults.iter().map(|(plane, fault)| format!("{}: {fault:?}", plane.as_str())));
    if end.gave_up {
        left.push("the kernel was busy for too long; run this again".into());
    }
    if !config.run_service_proxy && !tools.json {
        say(
            "kept: virtual servers and the firewall marks of services, as --run-service-proxy=false says that they are \
             somebody else's",
        );
    }
    let total: usize = counts.values().sum();
    if tools.json {
        say(&json!({"removed": removed, "left": left, "summary": {"removed": total, "left": left.len()}}).to_string());
    } else {
        left.iter().for_each(|what| say(&format!("left {what}")));
        let parts = counts.iter().map(|(of, count)| format!("{count} {}", of.trim_end_matches(':')));
        let parts: Vec<String> = parts.collect();
        say(&match total {
            0 if left.is_empty() => "nothing of ours is left on this node".to_string(),
            _ => format!("{total} removed ({}), {} left", parts.join(", "), left.len()),
        });
    }
    if left.is_empty() { Ok(()) } else { Err(Failed::late(format!("{} could not be removed", left.len()))) }
}

/// Prints what the daemon would do with what the source says.
pub(crate) fn dry_run(
    config: NodeConfig,
    open: impl FnOnce(&NodeConfig) -> Result<RealKernel, String>,
    deltas: impl Iterator<Item = Delta> + Send + 'static,
    patience: Duration,
    tools: &Tools,
) -> Result<(), Failed> {
    let (node, parts) = (config.node_name.clone(), replaced(&config));
    let mut kernel = open(&config).map_err(Failed::late)?;
    let mut monitor = kernel.monitor().map_err(Failed::late)?;
    let events = monitor.as_mut().map(|monitor| monitor.read(usize::MAX)).transpose();
    let events = events.map_err(|fault| Failed::late(format!("the interfaces cannot be read: {fault:?}")))?;
    let (tell, inputs) = mpsc::sync_channel(QUEUE);
    // It ends with the process at the latest.
    std::thread::spawn(move || {
        for delta in deltas {
            if tell.send(Input::Delta(delta)).is_err() {
                return;
            }
        }
    });
    let events = events.map(|(events, _)| events).unwrap_or_default();
    let plan = fairway_node::dry_run(config, kernel, events, &inputs, patience).map_err(Failed::late)?;
    let of_kube_router = leftovers().map_err(Failed::late)?;
    let of_kube_router: Vec<String> = of_kube_router
        .iter()
        .filter(|leftover| parts.contains(&leftover.part) && leftover.is_in_reach())
        .map(ToString::to_string)
        .collect();
    say(&if tools.json {
        in_json(&node, &plan, &of_kube_router).to_string()
    } else {
        in_text(&node, &plan, &of_kube_router)
    });
    let faults: Vec<String> =
        plan.faults.iter().map(|(plane, fault)| format!("{}: {fault:?}", plane.as_str())).collect();
    if faults.is_empty() { Ok(()) } else { Err(Failed::late(format!("not looked at: {}", faults.join("; ")))) }
}

/// The file that takes the daemon's recording.
pub(crate) fn recording((path, limit): &(PathBuf, u64)) -> Result<Recording, Failed> {
    let path = path.display().to_string();
    log("start", &format!("recorded into {path}, without passwords; `fairway replay {path}` plays it"));
    let ended = {
        let path = path.clone();
        move |reason: String| log("note", &format!("--record {path}: the recording ends, {reason}"))
    };
    Recording::create(Path::new(&path), *limit, Box::new(ended))
        .map_err(|error| Failed { status: USAGE, reason: format!("--record {path}: {error}") })
}

/// What kube-router left goes once our data plane stands, not before: so there is always one that works.
#[derive(Debug)]
pub(crate) struct TakeOver {
    parts: Vec<Part>,
    over: bool,
}

impl TakeOver {
    pub(crate) fn new(config: &NodeConfig) -> TakeOver {
        TakeOver { parts: replaced(config), over: false }
    }

    /// To be called from time to time: does its work once, when the node is in sync.
    pub(crate) fn look(&mut self, node: &Node, say: impl Fn(&str, &str)) {
        if self.over || !node.ask(|agent, _| agent.in_sync()).unwrap_or_default() {
            return;
        }
        self.over = true;
        let each = |leftover: &Leftover, result: &Result<(), String>| match result {
            Ok(()) => say("removed", &format!("of kube-router: {leftover}")),
            Err(reason) => say("note", &format!("of kube-router: {leftover}: left, {reason}")),
        };
        match remove_leftovers(&self.parts, each) {
            Err(error) => say("note", &error.to_string()),
            Ok(stay) if stay.is_empty() => {}
            Ok(stay) => say(
                "note",
                &format!(
                    "{} entries that kube-router left are still there ({}, ...); --cleanup-config --from-kube-router \
                     removes them",
                    stay.len(),
                    stay.iter().take(2).map(ToString::to_string).collect::<Vec<_>>().join("; ")
                ),
            ),
        }
    }
}

fn count(changes: &[Change], kind: ChangeKind) -> usize {
    changes.iter().filter(|change| change.kind == kind).count()
}

fn in_json(node: &str, plan: &Plan, of_kube_router: &[String]) -> Value {
    let changes = plan.changes.iter().map(|change| {
        json!({
            "plane": change.plane.as_str(), "change": change.kind.as_str(), "key": change.key,
            "before": change.before, "after": change.after,
        })
    });
    let notices = plan.notices.iter().map(ToString::to_string);
    json!({
        "node": node,
        "changes": changes.collect::<Vec<_>>(),
        "bgp": plan.bgp,
        "ofKubeRouter": of_kube_router,
        "keptRoutes": plan.kept_routes,
        "notices": notices.collect::<Vec<_>>(),
        "summary": {
            "add": count(&plan.changes, ChangeKind::Add),
            "change": count(&plan.changes, ChangeKind::Change),
            "remove": count(&plan.changes, ChangeKind::Remove) + of_kube_router.len(),
        },
    })
}

fn in_text(node: &str, plan: &Plan, of_kube_router: &[String]) -> String {
    let mut text = format!("{node}: what a daemon would change; nothing is changed now\n");
    let mut plane = None;
    for change in &plan.changes {
        if plane != Some(change.plane) {
            plane = Some(change.plane);
            text += &format!("\n{}\n", change.plane.as_str());
        }
        let (before, after) =
            (change.before.as_deref().unwrap_or_default(), change.after.as_deref().unwrap_or_default());
        text += &match change.kind {
            ChangeKind::Add => format!("  + {}  {after}\n", change.key),
            ChangeKind::Remove => format!("  - {}  {before}\n", change.key),
            ChangeKind::Change => format!("  ~ {}  {before} -> {after}\n", change.key),
        };
    }
    if !of_kube_router.is_empty() {
        text += "\nof kube-router, once the rest is done\n";
        text += &of_kube_router.iter().map(|what| format!("  - {what}\n")).collect::<String>();
    }
    if !plan.bgp.is_empty() {
        text += "\nbgp, which begins anew with each daemon\n";
        text += &plan.bgp.iter().map(|what| format!("    {what}\n")).collect::<String>();
    }
    if !plan.notices.is_empty() {
        text += "\nnotices\n";
        text += &plan.notices.iter().map(|notice| format!("    {notice}\n")).collect::<String>();
    }
    if plan.kept_routes > 0 {
        text += &format!(
            "\n{} routes that BGP learned earlier stay until its neighbours are up and say otherwise\n",
            plan.kept_routes
        );
    }
    let [add, change, remove] =
        [ChangeKind::Add, ChangeKind::Change, ChangeKind::Remove].map(|kind| count(&plan.changes, kind));
    let remove = remove + of_kube_router.len();
    text + &format!("\n{add} to add, {change} to change, {remove} to remove")
}
