//! Flows through a director with IPVS and a packet filter: what becomes of each in the simulated network, and with real
//! sockets in network namespaces.
//!
//! Compared are the fate (answered, refused, unreachable, no answer) and, if answered, the source that the server saw.
//! Which of several real servers answers is the scheduler's order, of which only the set is compared: Linux begins with
//! the one that was added last. Linux sends one host only so many ICMP errors in a second (`icmp_ratemask`) and keeps
//! silent after that, which the simulated kernel does not; here it is off.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fairway_backend_filter::FilterBackend;
use fairway_backend_ipvs::IpvsBackend;
use fairway_backend_route::RouteBackend;
use fairway_backend_route::setup::Setup;
use fairway_desired::filter::{self, Action, Base, Datum, Field, FieldType, Hook, Match, Set, Verdict};
use fairway_desired::ipvs::{self, Forwarding, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey};
use fairway_desired::{
    Addr, AddrKey, AddrValue, Backend, Family, Filter, Ipvs, Link, LinkKind, LinkValue, MAIN_TABLE, NextHop, Op,
    Outcome, Plane, Protocol, RouteKey, RouteKind, RouteValue, Sysctl,
};
use fairway_kernel::{Connect, Fabric, Failure, HostId};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::TestCaseError;

use crate::planes::{cases, ip, net};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(600);
const VIP: &str = "10.96.0.1";
/// Ports of the service address: served, rejected, dropped, and nobody's.
const SERVED: u16 = 80;
const REJECTED: u16 = 81;
const DROPPED: u16 = 82;
const NOBODYS: u16 = 83;

/// One generated network.
#[derive(Clone, Debug)]
struct Network {
    /// Which of three servers are real servers of the service.
    reals: Vec<u8>,
    /// Everything that leaves the director gets its address.
    masquerade: bool,
    forwarding: bool,
    /// The director has no service address: somebody routes it here all the same.
    without_address: bool,
    flows: Vec<(Protocol, &'static str, u16)>,
}

fn network() -> impl Strategy<Value = Network> {
    let to = select(vec![
        (VIP, SERVED),
        (VIP, SERVED),
        (VIP, REJECTED),
        (VIP, DROPPED),
        (VIP, NOBODYS),
        ("10.2.0.11", SERVED),
        ("10.2.0.12", NOBODYS),
        ("10.1.0.1", NOBODYS),
        ("10.9.9.9", SERVED),
    ]);
    let flow = (select(vec![Protocol::Tcp, Protocol::Udp]), to).prop_map(|(protocol, (to, port))| (protocol, to, port));
    (
        subsequence(vec![1u8, 2, 3], 0..=3),
        any::<bool>(),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.1),
        prop::collection::vec(flow, 1..6),
    )
        .prop_map(|(reals, masquerade, forwarding, without_address, flows)| Network {
            reals,
            masquerade,
            forwarding,
            without_address,
            flows,
        })
}

/// What became of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Answered { server: String, source: IpAddr },
    Refused,
    Unreachable,
    NoAnswer,
}

impl Network {
    fn sysctls(&self) -> Vec<Op<Sysctl>> {
        let put = |path: &str, value: bool| Op::Put(path.into(), i64::from(value));
        vec![put("net/ipv4/ip_forward", self.forwarding), put("net/ipv4/vs/conntrack", true)]
    }

    fn links() -> Vec<Op<Link>> {
        vec![Op::Put("kube-dummy-if".into(), LinkValue { kind: LinkKind::Dummy, up: true, mtu: None })]
    }

    fn addresses(&self) -> Vec<Op<Addr>> {
        let vip = AddrKey { address: IpNet::from(ip(VIP)), link: "kube-dummy-if".into() };
        if self.without_address { vec![] } else { vec![Op::Put(vip, AddrValue)] }
    }

    fn servers(&self) -> Vec<Op<Ipvs>> {
        let mut ops = vec![];
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let server = VirtualServerKey::Address { address: ip(VIP), port: SERVED, protocol };
            let value =
                VirtualServer { scheduler: Scheduler::Rr, fallback: false, hash_port: false, persistence_s: None };
            ops.push(Op::Put(ipvs::Key { server: server.clone(), real: None }, ipvs::Value::Server(value)));
            for n in &self.reals {
                let real = RealServerKey { address: [10, 2, 0, 10 + n].into(), port: SERVED };
                let key = ipvs::Key { server: server.clone(), real: Some(real) };
                let value = RealServer { weight: 1, forwarding: Forwarding::Masquerade };
                ops.push(Op::Put(key, ipvs::Value::Real(value)));
            }
        }
        ops
    }

    fn rules(&self) -> Vec<Op<Filter>> {
        let mut ops: Vec<Op<Filter>> = vec![];
        let mut input = vec![];
        for (name, port, verdict) in [("rejected", REJECTED, Verdict::Reject), ("dropped", DROPPED, Verdict::Drop)] {
            let set = Set { fields: vec![FieldType::Port], interval: false, verdicts: false };
            ops.push(Op::Put(filter::Key::Set(name.into()), filter::Value::Set(set)));
            let element = filter::Key::Element(name.into(), vec![Datum::Port(port)]);
            ops.push(Op::Put(element, filter::Value::Element(None)));
            let matches = vec![
                Match::Family(Family::V4),
                Match::InSet { fields: vec![Field::Dport], set: name.into(), negate: false },
            ];
            input.push(filter::Rule { matches, action: Action::Verdict(verdict) });
        }
        let mut chain = |name: &str, hook, nat, priority, rules: Vec<filter::Rule>| {
            let base = Some(Base { hook, nat, priority });
            ops.push(Op::Put(filter::Key::Chain(name.into()), filter::Value::Chain(base)));
            ops.push(Op::Put(filter::Key::Rules(name.into()), filter::Value::Rules(rules)));
        };
        chain("input", Hook::Input, false, 0, input);
        if self.masquerade {
            let away = Match::OutputLink("eth2".into());
            chain(
                "nat",
                Hook::Postrouting,
                true,
                100,
                vec![filter::Rule { matches: vec![away], action: Action::Masquerade }],
            );
        }
        ops
    }
}

fn default_route(via: &str) -> (RouteKey, RouteValue) {
    let next_hops = vec![NextHop { via: Some(ip(via)), dev: None, weight: 1 }];
    let key = RouteKey { prefix: net("0.0.0.0/0"), table: MAIN_TABLE, metric: 0 };
    (key, RouteValue { kind: RouteKind::Unicast, protocol: 3, src: None, next_hops })
}

fn done<P: Plane>(backend: &mut impl Backend<P>, ops: &[Op<P>]) {
    if ops.is_empty() {
        return;
    }
    let outcomes = backend.apply(ops).unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done), "{outcomes:?} for {ops:?}");
}

// ---------------------------------------------------------------- simulated

fn simulated(network: &Network) -> Vec<Fate> {
    let mut fabric = Fabric::new(1);
    let [outside, inside] = ["outside", "inside"].map(|name| fabric.add_lan(name, Duration::from_micros(100)));
    let client = fabric.add_host("client");
    let director = fabric.add_host("director");
    fabric.attach(client, "eth1", outside);
    fabric.attach(director, "eth1", outside);
    fabric.attach(director, "eth2", inside);
    let host = |fabric: &mut Fabric, host: HostId, address: &str, gateway: &str| {
        let kernel = fabric.kernel_mut(host);
        kernel.add_address("eth1", net(address));
        let (key, value) = default_route(gateway);
        kernel.add_route(key, value).unwrap();
    };
    host(&mut fabric, client, "10.1.0.2/24", "10.1.0.1");
    for n in 1..=3 {
        let name = format!("s{n}");
        let server = fabric.add_host(&name);
        fabric.attach(server, "eth1", inside);
        host(&mut fabric, server, &format!("10.2.0.1{n}/24"), "10.2.0.1");
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            fabric.listen(server, protocol, None, SERVED, &name).unwrap();
        }
    }
    let kernel = fabric.kernel_mut(director);
    kernel.add_address("eth1", net("10.1.0.1/24"));
    kernel.add_address("eth2", net("10.2.0.1/24"));
    done(kernel, &network.sysctls());
    done(kernel, &Network::links());
    done(kernel, &network.addresses());
    done(kernel, &network.rules());
    done(kernel, &network.servers());
    let mut now = Duration::from_secs(10);
    let flow = |(protocol, to, port): &(Protocol, &str, u16)| {
        now += Duration::from_secs(1);
        let request = Connect {
            from: client,
            owner: "test".into(),
            src: None,
            sport: None,
            to: ip(to),
            port: *port,
            protocol: *protocol,
        };
        let attempt =
            if *protocol == Protocol::Tcp { fabric.connect(now, &request) } else { fabric.datagram(now, &request) };
        match attempt.result {
            Ok(connected) => Fate::Answered { server: connected.server_owner, source: connected.source_seen.ip() },
            Err(Failure::Refused | Failure::Reset) => Fate::Refused,
            Err(Failure::Unreachable) => Fate::Unreachable,
            Err(Failure::NoAnswer) => Fate::NoAnswer,
        }
    };
    network.flows.iter().map(flow).collect()
}

// ---------------------------------------------------------------- real

/// A network namespace; it is gone when nobody holds its file and no thread is in it.
struct Space(File);

impl Space {
    fn new() -> Space {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            std::fs::write("/proc/sys/net/ipv4/icmp_ratemask", "0").unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Space(file.join().unwrap())
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    fn setup<T: Send>(&self, work: impl FnOnce(&mut Setup) -> T + Send) -> T {
        self.within(|| work(&mut Setup::new().unwrap()))
    }
}

/// Answers with a name and the client's address until it is told to stop.
fn serve(name: &str, stop: &AtomicBool) {
    let tcp = TcpListener::bind(("0.0.0.0", SERVED)).unwrap();
    let udp = UdpSocket::bind(("0.0.0.0", SERVED)).unwrap();
    tcp.set_nonblocking(true).unwrap();
    udp.set_nonblocking(true).unwrap();
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((mut stream, peer)) = tcp.accept() {
            // A client that went away hears nothing, which is its affair.
            let _gone = stream.write_all(format!("{name} {}", peer.ip()).as_bytes());
        }
        if let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _gone = udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn fate(result: io::Result<String>) -> Fate {
    match result {
        Ok(text) => {
            let (server, source) = text.split_once(' ').unwrap();
            Fate::Answered { server: server.into(), source: ip(source) }
        }
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Fate::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Fate::Unreachable,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Fate::NoAnswer,
            _ => panic!("{error}"),
        },
    }
}

fn flow(protocol: Protocol, to: SocketAddr) -> io::Result<String> {
    let mut buffer = [0; 64];
    let count = if protocol == Protocol::Tcp {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read(&mut buffer)?
    } else {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        socket.send(b"Hello")?;
        socket.recv(&mut buffer)?
    };
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

fn real(network: &Network) -> Vec<Fate> {
    let [director, client] = [(); 2].map(|()| Space::new());
    let servers: Vec<Space> = (0..3).map(|_| Space::new()).collect();
    director.setup(|setup| {
        setup.set_up("lo", true).unwrap();
        setup.add_veth("eth1", "eth1", Some(client.0.as_fd())).unwrap();
        setup.add_bridge("eth2").unwrap();
        for (n, server) in servers.iter().enumerate() {
            let port = format!("port{n}");
            setup.add_veth(&port, "eth1", Some(server.0.as_fd())).unwrap();
            setup.enslave(&port, "eth2").unwrap();
            setup.set_up(&port, true).unwrap();
        }
        for (link, address) in [("eth1", "10.1.0.1/24"), ("eth2", "10.2.0.1/24")] {
            setup.set_up(link, true).unwrap();
            setup.add_address(link, net(address)).unwrap();
        }
    });
    let host = |space: &Space, address: String, gateway: &str| {
        let gateway = gateway.to_string();
        space.setup(move |setup| {
            setup.set_up("lo", true).unwrap();
            setup.set_up("eth1", true).unwrap();
            setup.add_address("eth1", net(&address)).unwrap();
            let (key, value) = default_route(&gateway);
            setup.add_route(key, value).unwrap();
        });
    };
    host(&client, "10.1.0.2/24".into(), "10.1.0.1");
    for (n, server) in servers.iter().enumerate() {
        host(server, format!("10.2.0.1{}/24", n + 1), "10.2.0.1");
    }
    director.within(|| {
        let mut kernel = RouteBackend::new().unwrap();
        done(&mut kernel, &network.sysctls());
        done(&mut kernel, &Network::links());
        done(&mut kernel, &network.addresses());
        done(&mut FilterBackend::new().unwrap(), &network.rules());
        done(&mut IpvsBackend::new().unwrap(), &network.servers());
    });
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        for (n, server) in servers.iter().enumerate() {
            let stop = Arc::clone(&stop);
            scope.spawn(move || server.within(|| serve(&format!("s{}", n + 1), &stop)));
        }
        // Until the servers listen: a port that nobody has yet refuses.
        for n in 1..=3u8 {
            let listens = || director.within(|| flow(Protocol::Tcp, ([10, 2, 0, 10 + n], SERVED).into()).is_ok());
            while !listens() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let send = |(protocol, to, port): &(Protocol, &str, u16)| {
            client.within(|| fate(flow(*protocol, SocketAddr::new(ip(to), *port))))
        };
        let fates = network.flows.iter().map(send).collect();
        stop.store(true, Ordering::Relaxed);
        fates
    })
}

#[test]
fn flows() {
    cases(24, network(), |network| {
        let truth = real(&network);
        let guess = simulated(&network);
        let reals: BTreeSet<String> = network.reals.iter().map(|n| format!("s{n}")).collect();
        for ((flow, truth), guess) in network.flows.iter().zip(&truth).zip(&guess) {
            let through_ipvs = flow.1 == VIP && flow.2 == SERVED;
            match (truth, guess) {
                (Fate::Answered { server: a, source: x }, Fate::Answered { server: b, source: y }) if through_ipvs => {
                    prop_assert!(reals.contains(a) && reals.contains(b), "{:?}: {} and {}", flow, a, b);
                    prop_assert_eq!(x, y, "source of {:?}", flow);
                }
                _ => prop_assert_eq!(truth, guess, "real and simulated fate of {:?}", flow),
            }
        }
        Ok::<(), TestCaseError>(())
    });
}
