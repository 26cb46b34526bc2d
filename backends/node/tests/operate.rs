//! An operator's look and clean-up, on the real kernel: a dry run changes nothing and says what a daemon then does; a
//! cleanup leaves what is not ours and nothing else.

mod site;

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use fairway_agent::Input;
use fairway_node::{ChangeKind, Plan, RealKernel, Watched, clean_up, dry_run};
use site::{Objects, Running, Site, State, after, before, config, first_site, list};

/// What a daemon would do with these objects.
fn plan(site: &Site, objects: &Objects) -> Plan {
    site.node.within(|| {
        let deltas = list(objects);
        let (tell, inputs) = sync_channel(deltas.len());
        deltas.into_iter().for_each(|delta| tell.send(Input::Delta(delta)).expect("there is room"));
        let mut kernel = RealKernel::open(&config()).expect("it was open before");
        let mut monitor = kernel.monitor().expect("the kernel speaks").expect("it is a real one");
        let (events, _) = monitor.read(usize::MAX).expect("the kernel speaks");
        dry_run(config(), kernel, events, &inputs, Duration::from_secs(10)).expect("all is listed")
    })
}

fn count(plan: &Plan, kind: ChangeKind) -> usize {
    plan.changes.iter().filter(|change| change.kind == kind).count()
}

#[test]
fn a_dry_run_foretells_what_a_daemon_does_and_changes_nothing() {
    let Some(site) = first_site() else { return };
    let empty = State::of(&site.node);
    let foretold = plan(&site, &before());
    assert_eq!(State::of(&site.node).differences(&empty), "", "a dry run has changed something");
    assert!(count(&foretold, ChangeKind::Add) > 20, "{foretold:#?}");
    assert_eq!(count(&foretold, ChangeKind::Remove), 0);
    assert!(foretold.faults.is_empty());

    let agent = Running::start(&site.node, &before(), None);
    assert_eq!(agent.settle(), None);
    agent.kill();
    // All of it was foretold: nothing is left to do.
    assert_eq!(plan(&site, &before()).changes, vec![]);
    // Another cluster: some things are new, some go, and some become others.
    let now = State::of(&site.node);
    let other = plan(&site, &after());
    assert_eq!(State::of(&site.node).differences(&now), "", "a dry run has changed something");
    let removed = |key: &str| other.changes.iter().any(|c| c.kind == ChangeKind::Remove && c.key == key);
    assert!(removed("10.96.0.30:443/TCP") && removed("10.96.0.30/32 dev kube-dummy-if"), "{other:#?}");
    assert!(count(&other, ChangeKind::Add) > 3);
    assert!(!other.changes.iter().any(|change| change.key.contains("10.96.0.10")), "what stays is not mentioned");
}

#[test]
fn a_cleanup_takes_away_what_is_ours_and_only_once() {
    let Some(site) = first_site() else { return };
    let (empty, foreign) = (State::of(&site.node), site.foreign());
    let agent = Running::start(&site.node, &before(), None);
    assert_eq!(agent.settle(), None);
    agent.kill();
    site.node.run("ipvsadm -A -t 172.16.0.1:80 -s rr", "").expect("somebody else's, by --excluded-cidrs");
    let mut config = config();
    config.excluded_cidrs = vec![site::net("172.16.0.0/12")];
    let clean = |removed: &mut usize| site.node.within(|| clean_up(&config, None, |_| *removed += 1)).expect("sockets");
    let mut removed = 0;
    let end = clean(&mut removed);
    assert!(end.is_clean() && removed > 20, "{removed} {end:?}");
    let left = site.node.run("ipvsadm -Sn", "").expect("ipvsadm runs");
    assert_eq!(left.trim(), "-A -t 172.16.0.1:80 -s rr");
    assert!(!site.node.run("nft list tables", "").expect("nft runs").contains("fairway"));
    assert_eq!(site.foreign(), foreign);
    site.node.run("ipvsadm -C", "").expect("ipvsadm runs");
    // Kernel parameters stay as they are: nobody knows what they were.
    let state = State { sysctl: empty.sysctl.clone(), ..State::of(&site.node) };
    assert_eq!(state.differences(&empty), "");
    let mut removed = 0;
    assert!(clean(&mut removed).is_clean());
    assert_eq!(removed, 0);
}
