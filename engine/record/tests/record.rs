//! What is in a recording, what is not, and what a replay notices.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fairway_agent::{Input, Output, bgp, serve};
use fairway_desired::{Backend, Fault, Op, Outcome, Plane, Table};
use fairway_objects::{BgpPeer, Delta, Kind, Node, NodeConfig, Object, ObjectName};
use fairway_record::{Ended, ReadError, Replay, Taped};
use proptest::prelude::*;

const SECRET: &str = "the secret of this test";

/// A node whose neighbours have passwords, one by flag and one by annotation.
fn config() -> NodeConfig {
    let peer = BgpPeer { password: Some(SECRET.into()), ..BgpPeer::new([10, 0, 0, 9].into(), 65009) };
    NodeConfig { run_service_proxy: false, cluster_asn: Some(65001), peers: vec![peer], ..NodeConfig::new("n1") }
}

fn inputs() -> Vec<Input> {
    let mut node = Node::new(ObjectName { namespace: "".into(), name: "n1".into() });
    node.internal_ips = vec![[10, 0, 0, 1].into()];
    node.peers = vec![BgpPeer { password: Some(SECRET.into()), ..BgpPeer::new([10, 0, 0, 8].into(), 65008) }];
    let mut inputs = vec![Input::Tick];
    for kind in Kind::ALL {
        inputs.push(Input::Delta(Delta::Relist(kind)));
        if kind == Kind::Node {
            let object = Object::Node(Arc::new(node.clone()));
            inputs.push(Input::Delta(Delta::Put { object, notices: vec![] }));
        }
        inputs.push(Input::Delta(Delta::Listed(kind)));
    }
    inputs.push(Input::Shutdown);
    inputs
}

fn password(output: &Output) -> Option<&str> {
    match output {
        Output::Bgp(bgp::Output::Password { password, .. } | bgp::Output::Connect { password, .. }) => {
            password.as_deref()
        }
        _ => None,
    }
}

/// A kernel that has nothing and takes everything.
struct Willing;

impl<P: Plane> Backend<P> for Willing {
    fn observe(&mut self) -> Result<Table<P>, Fault> {
        Ok(Table::<P>::new())
    }

    fn apply(&mut self, ops: &[Op<P>]) -> Result<Vec<Outcome>, Fault> {
        Ok(vec![Outcome::Done; ops.len()])
    }
}

/// Records an agent on a kernel that has nothing.
fn record() -> (Vec<u8>, Vec<Output>) {
    let bytes = Arc::new(Mutex::new(vec![]));
    let kept = Arc::clone(&bytes);
    let sink = Box::new(move |more: Vec<u8>| {
        kept.lock().expect("nobody panics with it").extend(more);
        true
    });
    let mut agent = Taped::recorded(config(), 7, "1", 0, sink);
    let mut outputs = vec![];
    for (second, input) in inputs().into_iter().enumerate() {
        let now = Duration::from_secs(second as u64);
        agent.handle(now, input);
        while let Some(output) = agent.poll() {
            outputs.push(output.clone());
            if let Some(answer) = serve(output, &mut Willing) {
                agent.handle(now, answer);
            }
        }
    }
    drop(agent);
    let bytes = bytes.lock().expect("nobody panics with it").clone();
    (bytes, outputs)
}

#[test]
fn a_replay_is_identical_and_has_names_in_place_of_passwords() {
    let (bytes, outputs) = record();
    assert!(outputs.iter().any(|output| password(output) == Some(SECRET)), "the agent has to use it: {outputs:?}");
    assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
    let mut replay = Replay::new(&bytes).expect("a recording");
    let steps: Vec<_> = replay.by_ref().collect();
    assert!(steps.iter().all(|step| step.identical == Some(true)), "{steps:#?}");
    assert_eq!(replay.ended(), Some(Ended::Complete));
    assert_eq!(replay.header().config.peers[0].password.as_deref(), Some("password-1"));
    let again: Vec<&Output> = steps.iter().flat_map(|step| &step.outputs).collect();
    assert_eq!(again.len(), outputs.len());
    for (again, output) in again.into_iter().zip(&outputs) {
        match password(output) {
            // Shown it is not, so it does not differ in text.
            Some(_) => assert_eq!((password(again), format!("{again:?}")), (Some("password-1"), format!("{output:?}"))),
            None => assert_eq!(again, output),
        }
    }
}

#[test]
fn an_input_that_is_missing_is_noticed() {
    let (bytes, _) = record();
    // The frames after the magic number, as the crate's documentation has them.
    let (mut at, mut frames) = (8, vec![]);
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four octets")) as usize;
        frames.push(at..at + 4 + length);
        at += 4 + length;
    }
    let mut noticed = 0;
    for missing in 2..frames.len() - 1 {
        let kept = frames.iter().enumerate().filter(|(n, _)| *n != missing).flat_map(|(_, f)| &bytes[f.clone()]);
        let other: Vec<u8> = bytes[..8].iter().chain(kept).copied().collect();
        let mut replay = Replay::new(&other).expect("a recording");
        let _steps = replay.by_ref().count();
        noticed += usize::from(replay.difference().is_some());
    }
    assert!(noticed * 2 > frames.len(), "{noticed} of {}", frames.len());
}

#[test]
fn other_bytes_are_no_recording() {
    assert_eq!(Replay::new(b"").err(), Some(ReadError::NotARecording));
    assert_eq!(Replay::new(b"fairway\x01").err(), Some(ReadError::Header));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A damaged recording is played as far as it goes, without panic.
    #[test]
    fn a_damaged_recording_breaks_nothing(places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let (mut bytes, _) = record();
        for (place, value) in places {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(replay) = Replay::new(&bytes) {
            prop_assert!(replay.count() < 1000);
        }
    }
}
