//! Our daemon: the speaker and its transport in one thread, as in `fairway-node`, without the kernel.

use std::time::Instant;

use fairway_backend_bgp::Transport;
use fairway_bgp::{Input, Output, Speaker};
use fairway_desired::bgp::{Families, Global, Key, Peer, Session, Value};
use fairway_desired::{Op, Outcome};
use tokio::sync::mpsc;

use crate::daemon::{ADDRESS, ASN, HOLD_S, PORT, neighbors};

/// This program is the daemon if it is called so.
pub(crate) const ARGUMENT: &str = "--speaker";
/// Inputs that wait for the speaker, as in `fairway-node`.
const QUEUE: usize = 1024;

/// Runs until it is killed.
pub(crate) fn run(arguments: &[String]) {
    let collectors = arguments.first().and_then(|a| a.parse().ok()).expect("the number of collectors");
    let mut ops = vec![Op::Put(Key::Global, Value::Global(Global::new(ASN, ADDRESS, PORT, 1)))];
    for (address, asn) in neighbors(collectors) {
        let session = Session::new(HOLD_S, Families { v4: true, v6: false });
        ops.push(Op::Put(Key::Peer(address.into()), Value::Peer(Peer { passive: true, ..Peer::new(asn, session) })));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(go(&ops));
}

async fn go(ops: &[Op<fairway_desired::Bgp>]) {
    let (events, mut inputs) = mpsc::channel(QUEUE);
    let mut transport = Transport::new(events);
    let epoch = Instant::now();
    let mut speaker = Speaker::new(1);
    let outcomes = speaker.apply(epoch.elapsed(), ops);
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done), "{outcomes:?}");
    loop {
        while let Some(output) = speaker.poll() {
            match output {
                // The kernel's plane would be told.
                Output::Learned(_) => {}
                Output::Event(event) => eprintln!("{event}"),
                output => transport.handle(&output).unwrap(),
            }
        }
        let deadline = speaker.deadline().map(|at| epoch + at);
        let sleep = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let input = tokio::select! {
            input = inputs.recv() => input.expect("the transport is there"),
            () = sleep => Input::Tick,
        };
        speaker.handle(epoch.elapsed(), input);
    }
}
