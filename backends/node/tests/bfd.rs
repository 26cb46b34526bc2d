//! BFD of a running node: sockets that are taken, and a loop that comes late. A kernel of nothing will do.
//!
//! The port of BFD cannot be chosen, so the test has a network namespace for itself; without root it says so and passes.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_agent::bfd::{Diagnostic, PORT, Packet, State};
use fairway_desired::{Addr, Backend, Fault, File, Filter, Ipvs, Link, Op, Outcome, Pod, Route, Rule, Sysctl, Table};
use fairway_node::{Monitor, Node, Start, Watched};
use fairway_objects::{BfdConfig, NodeConfig, NoticeChange, RouterConfig, RouterPeer, RouterSessions};
use nix::sched::{CloneFlags, unshare};

const LIMIT: Duration = Duration::from_secs(20);
/// Where the node's neighbour listens: BFD's own port is the node's, on every address.
const THEIR_PORT: u16 = 3999;
const OURS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A kernel that has nothing and takes everything.
struct Nothing;

impl Watched for Nothing {
    fn monitor(&mut self) -> Result<Option<Monitor>, String> {
        Ok(None)
    }
}

macro_rules! nothing {
    ($($plane:ident),*) => { $(impl Backend<$plane> for Nothing {
        fn observe(&mut self) -> Result<Table<$plane>, Fault> {
            Ok(Table::<$plane>::new())
        }

        fn apply(&mut self, ops: &[Op<$plane>]) -> Result<Vec<Outcome>, Fault> {
            Ok(vec![Outcome::Done; ops.len()])
        }
    })* };
}

nothing!(Sysctl, Link, Addr, Filter, Rule, Route, Pod, Ipvs, File);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "never {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn config() -> NodeConfig {
    let bfd = BfdConfig { port: THEIR_PORT, desired_min_tx_ms: 50, required_min_rx_ms: 50, multiplier: 4 };
    let router = RouterConfig {
        asn: 65001,
        router_id: OURS,
        accept: vec![],
        import_reject: vec![],
        networks: vec![],
        addresses: vec![OURS.into()],
        peers: vec![RouterPeer { address: THEIRS.into(), asn: 65002, password: None }],
        sessions: RouterSessions { bfd: Some(bfd), ..RouterSessions::default() },
    };
    NodeConfig::router("r1", router)
}

/// The neighbour: answers what it hears, and goes on by itself each 50 ms, in a thread of its own.
struct Neighbor {
    stop: Arc<AtomicBool>,
    /// Packets that the node sent.
    heard: Arc<AtomicU32>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Neighbor {
    fn start() -> Neighbor {
        let socket = UdpSocket::bind((THEIRS, THEIR_PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket.set_ttl(255).unwrap();
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&heard));
        let thread = std::thread::spawn(move || {
            let mut known = 0;
            let mut state = State::Down;
            while !ended.load(Ordering::Relaxed) {
                let mut bytes = [0; 100];
                if let Ok((length, _)) = socket.recv_from(&mut bytes)
                    && let Ok(packet) = Packet::decode(&bytes[..length])
                {
                    count.fetch_add(1, Ordering::Relaxed);
                    known = packet.my_discriminator;
                    state = match packet.state {
                        State::Down if state == State::Up => State::Down,
                        State::Down => State::Init,
                        State::Init | State::Up => State::Up,
                        State::AdminDown => State::Down,
                    };
                }
                let packet = Packet {
                    diagnostic: Diagnostic::NONE,
                    state,
                    poll: false,
                    last: true,
                    control_plane_independent: false,
                    demand: false,
                    multiplier: 4,
                    my_discriminator: 7,
                    your_discriminator: if state == State::Down { 0 } else { known },
                    desired_min_tx_us: 50_000,
                    required_min_rx_us: 50_000,
                    required_min_echo_rx_us: 0,
                };
                // Nobody listens at first, which is not this test's affair.
                let _refused = socket.send_to(&packet.encode(), (OURS, PORT));
            }
        });
        Neighbor { stop, heard, thread: Some(thread) }
    }
}

impl Drop for Neighbor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _over = thread.join();
        }
    }
}

#[test]
fn a_taken_port_is_a_notice_and_a_late_loop_is_no_silence() {
    let test = std::thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: no network namespace: {error}");
            return;
        }
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        play();
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

fn play() {
    let taken = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
    let neighbor = Neighbor::start();
    let notices = Arc::new(Mutex::new(BTreeSet::new()));
    let standing = Arc::clone(&notices);
    // Threads that the node starts are in the namespace of this one.
    let node = Node::start(Start {
        config: config(),
        seed: 3,
        epoch: Instant::now(),
        enter: Box::new(|| Ok(())),
        open: Box::new(|_| Ok(Nothing)),
        notices: Box::new(move |change| {
            let mut standing = standing.lock().unwrap();
            match change {
                NoticeChange::Raised(notice) => assert!(standing.insert(notice.to_string()), "{notice} raised twice"),
                NoticeChange::Cleared(notice) => {
                    assert!(standing.remove(&notice.to_string()), "{notice} was not raised")
                }
            }
        }),
        events: Box::new(|_| ()),
    })
    .unwrap();
    let said = |text: &str| notices.lock().unwrap().iter().any(|notice| notice.contains(text));
    until("refused", || said("BFD port 3784") && said("cannot listen on UDP port 3784"));
    until("sent", || neighbor.heard.load(Ordering::Relaxed) > 0);
    let view = |node: &Node| node.ask(|agent, _| agent.bfd().session(THEIRS.into())).unwrap().unwrap();
    assert_eq!((view(&node).state, view(&node).received), (State::Down, 0));
    drop(taken);
    until("open", || notices.lock().unwrap().is_empty());
    until("up", || view(&node).state == State::Up);

    // The node's thread is busy for longer than the detection time, again and again, while the neighbour goes on: what
    // the thread sees first when it comes back is a matter of luck.
    for _ in 0..10 {
        let heard = view(&node).received;
        node.ask(|_, _| std::thread::sleep(Duration::from_millis(300))).unwrap();
        until("going on", || view(&node).received > heard + 5);
    }
    // It was silent itself, so the neighbour may have seen an end of it; but this one plays on.
    assert_eq!((view(&node).state, view(&node).ups), (State::Up, 1));

    // Silence is another matter.
    drop(neighbor);
    until("down", || view(&node).state == State::Down);
    assert_eq!(view(&node).diagnostic, Diagnostic::EXPIRED);
}
