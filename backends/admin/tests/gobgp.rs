//! The real `gobgp` (version 3) and a generated client (version 4) against the server, over speakers that talk to each
//! other in memory. Without `gobgp` installed its half is skipped.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use fairway_backend_admin::client::{Client, ClientError, Status, Table};
use fairway_backend_admin::{EventLog, Job, Source, serve};
use fairway_bgp::{ConnId, Input, Output, Speaker, Time};
use fairway_desired::bgp::{
    Community, Direction, Dynamic, Families, Global, Key, Modify, Network, Peer, Policy, Session, Statement, Value,
};
use fairway_desired::{Bgp, Op};
use ipnet::IpNet;
use serde_json::Value as Json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Generated from `proto/`.
#[allow(unreachable_pub, unused_qualifications, dead_code, clippy::all, reason = "generated code")]
mod api {
    include!(concat!(env!("OUT_DIR"), "/client/api.rs"));
}

type End = (usize, ConnId);

/// Speakers, and connections without delay. The first one is asked.
struct World {
    now: Time,
    nodes: Vec<(IpAddr, Speaker)>,
    ends: BTreeMap<End, End>,
    accepted: u64,
    events: EventLog,
}

impl World {
    fn add(&mut self, address: &str, ops: &[Op<Bgp>]) {
        let mut speaker = Speaker::new(self.nodes.len() as u64);
        speaker.apply(self.now, ops);
        self.nodes.push((address.parse().unwrap(), speaker));
    }

    fn tell(&mut self, node: usize, input: Input) {
        self.nodes[node].1.handle(self.now, input);
    }

    /// Until nobody has anything more to say.
    fn settle(&mut self) {
        while let Some((node, output)) =
            self.nodes.iter_mut().enumerate().find_map(|(i, (_, s))| s.poll().map(|output| (i, output)))
        {
            match output {
                Output::Connect { conn, remote, .. } => self.connect(node, conn, remote),
                Output::Send { conn, bytes } => {
                    if let Some((to, conn)) = self.ends.get(&(node, conn)).copied() {
                        self.tell(to, Input::Received { conn, bytes: bytes.to_vec() });
                    }
                }
                Output::Close { conn } => {
                    if let Some((to, conn)) = self.ends.remove(&(node, conn)) {
                        self.ends.remove(&(to, conn));
                        self.tell(to, Input::Closed { conn });
                    }
                }
                Output::Event(event) if node == 0 => self.events.push(event),
                _ => {}
            }
        }
    }

    fn connect(&mut self, node: usize, conn: ConnId, remote: SocketAddr) {
        let Some(server) = self.nodes.iter().position(|(address, _)| *address == remote.ip()) else {
            return self.tell(node, Input::ConnectFailed { conn });
        };
        self.accepted += 1;
        let accepted = ConnId::In(self.accepted);
        self.ends.insert((node, conn), (server, accepted));
        self.ends.insert((server, accepted), (node, conn));
        let source = SocketAddr::new(self.nodes[node].0, 40000);
        self.tell(server, Input::Accepted { conn: accepted, local: remote, remote: source });
        self.tell(node, Input::Connected { conn, local: source, remote });
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.settle();
        while let Some((at, node)) =
            self.nodes.iter().enumerate().filter_map(|(i, (_, s))| s.deadline().map(|at| (at, i))).min()
            && at <= end
        {
            self.now = self.now.max(at);
            self.tell(node, Input::Tick);
            self.settle();
        }
        self.now = end;
    }
}

impl Source for World {
    fn now(&self) -> Time {
        self.now
    }

    fn speaker(&self) -> &Speaker {
        &self.nodes[0].1
    }

    fn input(&mut self, input: Input) {
        self.tell(0, input);
        self.settle();
    }

    fn events(&self) -> &EventLog {
        &self.events
    }

    fn status(&self) -> Status {
        Status { node: "vm-001".into(), ..Status::default() }
    }

    fn bfd(&self, peer: IpAddr) -> Option<fairway_backend_admin::client::Bfd> {
        let bfd = fairway_backend_admin::client::Bfd { state: "Up".into(), ..Default::default() };
        (peer.to_string() == "10.0.0.2").then_some(bfd)
    }

    fn kernel(&self, prefix: IpNet) -> String {
        format!("nothing of {prefix}")
    }
}

fn global(asn: u32, id: u8) -> Op<Bgp> {
    let router_id = Ipv4Addr::new(10, 0, 0, id);
    Op::Put(Key::Global, Value::Global(Global::new(asn, router_id, 179, 1)))
}

const BOTH: Families = Families { v4: true, v6: true };

fn peer(address: &str, asn: u32, local: Option<&str>) -> Op<Bgp> {
    let local = local.map(|l| l.parse().unwrap());
    let password = Some("sesame".to_owned());
    let peer = Peer { local, password, ..Peer::new(asn, Session::new(90, BOTH)) };
    Op::Put(Key::Peer(address.parse().unwrap()), Value::Peer(peer))
}

fn network(prefix: &str, next_hop: &str) -> Op<Bgp> {
    Op::Put(Key::Network(prefix.parse().unwrap()), Value::Network(Network { next_hop: next_hop.parse().unwrap() }))
}

fn member(set: &str, prefix: &str, min: u8, max: u8) -> Op<Bgp> {
    Op::Put(Key::PrefixMember(set.into(), prefix.parse().unwrap()), Value::PrefixMember { min, max })
}

fn policy(direction: Direction, statements: Vec<Statement>, default_accept: bool) -> Op<Bgp> {
    Op::Put(Key::Policy(direction), Value::Policy(Policy { statements, default_accept }))
}

fn statement(name: &str, prefixes: Option<&str>, neighbors: Option<&str>, accept: bool, modify: Modify) -> Statement {
    let (prefix_set, neighbor_set) = (prefixes.map(Into::into), neighbors.map(Into::into));
    Statement { name: name.into(), prefix_set, neighbor_set, accept, modify, ..Statement::default() }
}

/// We are AS 64512 at 10.0.0.1; 10.0.0.2 (AS 64513) and 10.0.9.4 (dynamic) are up, 10.0.0.3 is never there.
fn world() -> World {
    let mut world = World {
        now: Duration::from_secs(1000),
        nodes: vec![],
        ends: BTreeMap::new(),
        accepted: 0,
        events: EventLog::new(),
    };
    let modify = Modify {
        prepend: Some((64512, 2)),
        next_hop_self: true,
        communities: vec![Community::Standard((64512 << 16) | 7)],
        ..Modify::default()
    };
    let dynamic = Dynamic { asns: vec![64512], session: Session::new(90, BOTH) };
    world.add(
        "10.0.0.1",
        &[
            global(64512, 1),
            member("podcidr", "10.1.0.0/24", 24, 24),
            member("podcidr", "2001:db8:1::/64", 64, 64),
            member("bad", "192.168.0.0/16", 16, 32),
            Op::Put(Key::NeighborMember("external".into(), "10.0.0.2/32".parse().unwrap()), Value::NeighborMember),
            policy(Direction::Import, vec![statement("no-bad", Some("bad"), None, false, Modify::default())], true),
            policy(Direction::Export, vec![statement("pods", Some("podcidr"), Some("external"), true, modify)], false),
            network("10.1.0.0/24", "10.0.0.1"),
            network("2001:db8:1::/64", "2001:db8::1"),
            Op::Put(Key::Dynamic("10.0.9.0/24".parse().unwrap()), Value::Dynamic(dynamic)),
            peer("10.0.0.2", 64513, Some("10.0.0.1")),
            peer("10.0.0.3", 64512, None),
        ],
    );
    let modify = Modify {
        prepend: Some((64999, 1)),
        next_hop_self: false,
        communities: vec![Community::Standard((64513 << 16) | 1)],
        ..Modify::default()
    };
    world.add(
        "10.0.0.2",
        &[
            global(64513, 2),
            policy(Direction::Export, vec![statement("all", None, None, true, modify)], false),
            network("10.2.0.0/16", "10.0.0.2"),
            network("10.2.1.0/24", "10.0.0.2"),
            network("192.168.7.0/24", "10.0.0.2"),
            network("2001:db8:2::/64", "2001:db8::2"),
            peer("10.0.0.1", 64512, None),
        ],
    );
    world.add("10.0.9.4", &[global(64512, 4), network("10.2.1.0/24", "10.0.9.4"), peer("10.0.0.1", 64512, None)]);
    world.pass(Duration::from_secs(65));
    world
}

struct Server {
    runtime: Runtime,
    address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    fn start(mut world: World) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (jobs, mut queue) = mpsc::channel::<Job>(4);
        runtime.spawn(async move {
            while let Some(job) = queue.recv().await {
                job(&mut world);
            }
        });
        let serving = runtime.spawn(async move { serve(listener, jobs).await.unwrap() });
        Self { runtime, address, serving }
    }

    /// Output of a command, and whether it succeeded; `None` without gobgp.
    fn run(&self, line: &str) -> Option<(String, bool)> {
        let port = self.address.port().to_string();
        let mut command = Command::new("gobgp");
        command.args(["-u", "127.0.0.1", "-p", &port]).args(line.split_whitespace());
        match command.output() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                println!("skipped: no gobgp");
                None
            }
            output => {
                let output = output.unwrap();
                let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
                println!("$ gobgp {line}\n{}", &text[..text.len().min(4000)]);
                Some((text, output.status.success()))
            }
        }
    }
}

/// Lines as words, so that column widths do not matter.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

fn ok(server: &Server, line: &str) -> Option<String> {
    let (text, success) = server.run(line)?;
    assert!(success, "{text}");
    Some(text)
}

fn json(server: &Server, line: &str) -> Option<Json> {
    Some(serde_json::from_str(&ok(server, &format!("-j {line}"))?).unwrap())
}

/// Whether a line has these words, in this order, with anything between.
fn has(text: &str, wanted: &[&str]) -> bool {
    words(text).iter().any(|line| {
        let mut rest = line.iter();
        wanted.iter().all(|word| rest.any(|w| w == word))
    })
}

macro_rules! shows {
    ($text:expr, $($word:expr),+) => { assert!(has(&$text, &[$($word),+]), "no {:?}", [$($word),+]) };
}

#[test]
fn neighbors() {
    let server = Server::start(world());
    let Some(text) = ok(&server, "neighbor") else { return };
    assert_eq!(words(&text)[0], ["Peer", "AS", "Up/Down", "State", "|#Received", "Accepted"]);
    shows!(text, "10.0.0.2", "64513", "Establ");
    shows!(text, "10.0.0.3", "64512", "never");
    shows!(text, "10.0.9.4", "64512", "Establ", "1", "1");
    let up = words(&text).into_iter().find(|line| line[0] == "10.0.0.2").unwrap();
    assert!(up[2].starts_with("00:01:0"), "{up:?}");
    assert_eq!(up[4..], ["|", "4", "3"]);

    let text = ok(&server, "neighbor 10.0.0.2").unwrap();
    assert!(text.contains("BGP neighbor is 10.0.0.2, remote AS 64513\n"));
    assert!(text.contains("remote router ID 10.0.0.2\n"));
    assert!(text.contains("BGP state = ESTABLISHED, up for 00:01:0"));
    assert!(text.contains("Hold time is 90, keepalive interval is 30 seconds"));
    shows!(text, "ipv6-unicast:", "advertised");
    shows!(text, "Advertised:", "2");
    shows!(text, "Received:", "4");
    shows!(text, "Accepted:", "3");
    assert!(!text.contains("sesame"));

    let (text, success) = server.run("neighbor 192.0.2.9").unwrap();
    assert!(!success && text.contains("not found neighbor 192.0.2.9"));
    let (text, success) = server.run("neighbor 10.0.0.3 adj-in").unwrap();
    assert!(!success && text.contains("session is not established"));
    let (text, success) = server.run("neighbor 192.0.2.9 adj-out").unwrap();
    assert!(!success && text.contains("not found neighbor"));

    let all = json(&server, "neighbor").unwrap();
    assert_eq!(all.as_array().unwrap().len(), 3);
    let one = json(&server, "neighbor 10.0.0.2").unwrap();
    assert_eq!(one["conf"]["neighbor_address"], "10.0.0.2");
    assert_eq!(one["conf"]["type"], 1);
    assert_eq!(one["transport"]["local_address"], "10.0.0.1");
    assert_eq!(one["state"]["session_state"], 6);
    assert_eq!(one["state"]["admin_state"], Json::Null);
    // Of each family its own.
    assert_eq!(one["afi_safis"][0]["state"]["advertised"], 1);
    assert_eq!(one["afi_safis"][1]["state"]["advertised"], 1);
    assert!(!one.to_string().contains("sesame"));
}

#[test]
fn routes() {
    let server = Server::start(world());
    let Some(text) = ok(&server, "global rib") else { return };
    assert_eq!(words(&text)[0], ["Network", "Next", "Hop", "AS_PATH", "Age", "Attrs"]);
    shows!(text, "*>", "10.1.0.0/24", "10.0.0.1", "[{Origin:", "i}]");
    shows!(text, "*>", "10.2.0.0/16", "10.0.0.2", "64999", "64513", "[{Origin:", "i}", "{Communities:", "64513:1}]");
    // An internal path is shorter, so it is the best.
    shows!(text, "*>", "10.2.1.0/24", "10.0.9.4", "{LocalPref:", "100}]");
    shows!(text, "*", "10.2.1.0/24", "10.0.0.2", "64999", "64513");
    assert!(!text.contains("192.168"));
    let age = words(&text).into_iter().find(|line| line[1] == "10.2.0.0/16").unwrap()[5].to_owned();
    assert!(age.starts_with("00:01:0"), "{age}");

    let text = ok(&server, "global rib -a ipv6").unwrap();
    shows!(text, "*>", "2001:db8:1::/64", "2001:db8::1");
    shows!(text, "*>", "2001:db8:2::/64", "2001:db8::2", "64999", "64513");

    let rows = |line: &str| words(&ok(&server, line).unwrap()).len() - 1;
    assert_eq!(rows("global rib 10.2.1.0/24"), 2);
    assert_eq!(rows("global rib 10.2.99.1"), 1);
    assert_eq!(rows("global rib 10.2.0.0/16 longer-prefixes"), 3);
    assert_eq!(rows("global rib 10.2.1.0/24 shorter-prefixes"), 3);
    assert_eq!(rows("global rib -a ipv6 2001:db8:2::1"), 1);
    assert!(ok(&server, "global rib 172.16.0.0/12").unwrap().contains("Network not in table"));
    assert!(ok(&server, "global rib summary").unwrap().contains("Destination: 3, Path: 4\n"));
    assert!(ok(&server, "neighbor 10.0.0.2 adj-out summary").unwrap().contains("Destination: 1, Path: 1\n"));

    let text = ok(&server, "neighbor 10.0.0.2 adj-in").unwrap();
    assert_eq!(words(&text)[0], ["ID", "Network", "Next", "Hop", "AS_PATH", "Age", "Attrs"]);
    shows!(text, "0", "10.2.0.0/16", "10.0.0.2", "64999", "64513");
    let text = ok(&server, "neighbor 10.0.0.2 adj-out").unwrap();
    shows!(
        text,
        "0",
        "10.1.0.0/24",
        "10.0.0.1",
        "64512",
        "64512",
        "64512",
        "[{Origin:",
        "i}",
        "{Communities:",
        "64512:7}]"
    );
    let text = ok(&server, "neighbor 10.0.0.2 adj-out -a ipv6").unwrap();
    shows!(text, "2001:db8:1::/64", "64512");
    let (text, success) = server.run("neighbor 10.0.0.2 local").unwrap();
    assert!(!success && text.contains("doesn't have local rib"));
    let (text, success) = server.run("global rib -a evpn").unwrap();
    assert!(!success && text.contains("not supported"));

    let rib = json(&server, "global rib").unwrap();
    assert_eq!(rib.as_object().unwrap().len(), 3);
    let paths = rib["10.2.1.0/24"].as_array().unwrap();
    assert_eq!((paths[0]["best"].as_bool(), paths[1]["best"].as_bool()), (Some(true), Some(false)));
    assert_eq!(paths[1]["nlri"]["prefix"], "10.2.1.0/24");
    assert_eq!(paths[1]["neighbor-ip"], "10.0.0.2");
    assert_eq!(paths[1]["source-id"], "10.0.0.2");
    let attr = |code: u64| paths[1]["attrs"].as_array().unwrap().iter().find(|a| a["type"] == code).unwrap();
    assert_eq!(attr(2)["as_paths"][0]["asns"], serde_json::json!([64999, 64513]));
    assert_eq!(attr(8)["communities"], serde_json::json!([(64513u32 << 16) | 1]));
    let rib = json(&server, "global rib -a ipv6").unwrap();
    let attrs = rib["2001:db8:2::/64"][0]["attrs"].as_array().unwrap();
    assert!(attrs.iter().any(|a| a["type"] == 14 && a["nexthop"] == "2001:db8::2"));
    assert_eq!(json(&server, "global rib summary").unwrap()["num_path"], 4);
}

#[test]
fn policies() {
    let server = Server::start(world());
    let Some(text) = ok(&server, "global") else { return };
    shows!(text, "AS:", "64512");
    shows!(text, "Router-ID:", "10.0.0.1");
    shows!(text, "Listening", "Port:", "179,", "Addresses:", "0.0.0.0,", "::");
    assert_eq!(json(&server, "global").unwrap()["asn"], 64512);

    let text = ok(&server, "policy").unwrap();
    shows!(text, "Name", "kube_router_import1:");
    shows!(text, "Name", "kube_router_export1:");
    shows!(text, "StatementName", "pods:");
    shows!(text, "PrefixSet:", "any", "podcidr");
    shows!(text, "NeighborSet:", "any", "external");
    shows!(text, "Community:", "add[64512:7]");
    shows!(text, "ASPathPrepend:", "prepend", "64512", "2", "times");
    shows!(text, "Nexthop:", "self");
    assert!(!text.contains("RPKI"));
    assert_eq!(json(&server, "policy").unwrap()[1]["name"], "kube_router_export1");
    assert!(ok(&server, "policy kube_router_import1").unwrap().contains("no-bad"));

    let text = ok(&server, "policy prefix").unwrap();
    shows!(text, "NAME", "PREFIX");
    shows!(text, "bad", "192.168.0.0/16", "16..32");
    shows!(text, "podcidr", "10.1.0.0/24", "24..24");
    shows!(text, "2001:db8:1::/64", "64..64");
    assert_eq!(words(&ok(&server, "policy prefix bad").unwrap()).len(), 2);
    let sets = json(&server, "policy prefix").unwrap();
    assert_eq!(sets[1]["prefixes"][0]["ip_prefix"], "10.1.0.0/24");
    let text = ok(&server, "policy neighbor").unwrap();
    shows!(text, "NAME", "ADDRESS");
    shows!(text, "external", "10.0.0.2/32");
    assert_eq!(json(&server, "policy neighbor").unwrap()[0]["list"], serde_json::json!(["10.0.0.2/32"]));
    assert!(ok(&server, "policy community").unwrap().contains("Nothing defined yet"));
    shows!(ok(&server, "policy statement").unwrap(), "StatementName", "no-bad:");
    assert_eq!(json(&server, "policy statement").unwrap().as_array().unwrap().len(), 2);

    let text = ok(&server, "global policy").unwrap();
    let import = text.split("Export policy:").next().unwrap();
    assert!(import.contains("Import policy:\n    Default: ACCEPT\n    Name kube_router_import1:"));
    assert!(text.contains("Export policy:\n    Default: REJECT\n    Name kube_router_export1:"));
    let assignment = json(&server, "global policy export").unwrap();
    assert_eq!((&assignment["name"], &assignment["default_action"]), (&"global".into(), &2.into()));
}

#[test]
fn resets() {
    let server = Server::start(world());
    let Some(_) = ok(&server, "neighbor 10.0.0.2 softresetin") else { return };
    assert!(ok(&server, "neighbor 10.0.0.2").unwrap().contains("BGP state = ESTABLISHED"));
    ok(&server, "neighbor 10.0.0.2 softresetout").unwrap();
    ok(&server, "neighbor 10.0.0.2 softreset").unwrap();
    assert!(ok(&server, "neighbor 10.0.0.2").unwrap().contains("BGP state = ESTABLISHED"));
    ok(&server, "neighbor 10.0.0.2 disable").unwrap();
    shows!(ok(&server, "neighbor").unwrap(), "10.0.0.2", "Idle(Admin)");
    ok(&server, "neighbor 10.0.0.2 enable").unwrap();
    shows!(ok(&server, "neighbor").unwrap(), "10.0.0.2", "Establ");
    ok(&server, "neighbor 10.0.0.2 reset").unwrap();
    let text = ok(&server, "neighbor").unwrap();
    let down = words(&text).into_iter().find(|line| line[0] == "10.0.0.2").unwrap();
    assert_ne!(down[3], "Establ");
    assert!(down[2].starts_with("00:00:0"), "{down:?}");
    shows!(text, "10.0.9.4", "Establ");
    ok(&server, "neighbor all reset").unwrap();
    assert!(!ok(&server, "neighbor").unwrap().contains("Establ"));
    for line in ["neighbor 192.0.2.9 reset", "neighbor add 10.0.0.8 as 1", "vrf"] {
        let (text, success) = server.run(line).unwrap();
        assert!(!success, "{line}: {text}");
        assert!(line.contains("reset") || text.contains("Unimplemented"), "{line}: {text}");
    }
}

#[test]
fn version_4() {
    use api::attribute::Attr;
    use api::go_bgp_service_client::GoBgpServiceClient;

    let server = Server::start(world());
    server.runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
        let mut client = GoBgpServiceClient::new(channel.connect().await.unwrap());
        macro_rules! all {
            ($call:ident, $request:expr) => {{
                let mut stream = client.$call($request).await.unwrap().into_inner();
                let mut answers = Vec::new();
                while let Some(answer) = stream.message().await.unwrap() {
                    answers.push(answer);
                }
                answers
            }};
        }

        let global = client.get_bgp(api::GetBgpRequest {}).await.unwrap().into_inner().global.unwrap();
        assert_eq!((global.asn, global.router_id.as_str()), (64512, "10.0.0.1"));

        let request = api::ListPeerRequest { address: "10.0.0.2".into(), enable_advertised: true };
        let peers = all!(list_peer, request);
        let peer = peers[0].peer.clone().unwrap();
        let state = peer.state.unwrap();
        assert_eq!(peers.len(), 1);
        assert_eq!(state.session_state(), api::peer_state::SessionState::Established);
        assert_eq!(state.admin_state(), api::peer_state::AdminState::Up);
        assert_eq!(peer.conf.unwrap().r#type(), api::PeerType::External);
        assert_eq!(state.local_cap.len(), 4);

        let family =
            |afi: api::family::Afi| Some(api::Family { afi: afi.into(), safi: api::family::Safi::Unicast.into() });
        let table = |table: api::TableType, name: &str, afi| api::ListPathRequest {
            table_type: table.into(),
            name: name.into(),
            family: family(afi),
            ..Default::default()
        };
        let (v4, v6) = (api::family::Afi::Ip, api::family::Afi::Ip6);
        let paths = all!(list_path, table(api::TableType::Global, "", v4));
        let prefixes: Vec<String> = paths.iter().map(|p| p.destination.clone().unwrap().prefix).collect();
        assert_eq!(prefixes, ["10.1.0.0/24", "10.2.0.0/16", "10.2.1.0/24"]);
        let path = paths[1].destination.as_ref().unwrap().paths[0].clone();
        assert!(path.best && path.is_from_external);
        assert_eq!((path.neighbor_ip.as_str(), path.source_asn), ("10.0.0.2", 64513));
        let attrs: Vec<Attr> = path.pattrs.into_iter().map(|a| a.attr.unwrap()).collect();
        assert!(attrs.contains(&Attr::NextHop(api::NextHopAttribute { next_hop: "10.0.0.2".into() })));
        assert!(attrs.contains(&Attr::Communities(api::CommunitiesAttribute { communities: vec![(64513 << 16) | 1] })));
        let paths = all!(list_path, table(api::TableType::AdjOut, "10.0.0.2", v6));
        let attrs = &paths[0].destination.as_ref().unwrap().paths[0].pattrs;
        assert!(attrs.iter().any(|a| matches!(&a.attr, Some(Attr::MpReach(m)) if m.family == family(v6))));

        let mut request = table(api::TableType::Global, "", v4);
        let longer = api::table_lookup_prefix::Type::Longer.into();
        request.prefixes = vec![api::TableLookupPrefix { prefix: "10.2.0.0/16".into(), r#type: longer }];
        assert_eq!(all!(list_path, request.clone()).len(), 2);
        request.prefixes = vec![api::TableLookupPrefix { prefix: "nonsense".into(), r#type: longer }];
        assert_eq!(client.list_path(request.clone()).await.unwrap_err().code(), tonic::Code::InvalidArgument);
        request.prefixes = vec![api::TableLookupPrefix { prefix: "10.0.0.0/8".into(), r#type: longer }; 300];
        assert_eq!(client.list_path(request).await.unwrap_err().code(), tonic::Code::InvalidArgument);
        let unspecified = client.list_path(table(api::TableType::Unspecified, "", v4)).await.unwrap_err();
        assert_eq!(unspecified.code(), tonic::Code::InvalidArgument);

        let request = api::GetTableRequest {
            table_type: api::TableType::AdjIn.into(),
            family: family(v4),
            name: "10.0.0.2".into(),
        };
        assert_eq!(client.get_table(request).await.unwrap().into_inner().num_path, 3);

        let defined = api::DefinedType::Neighbor.into();
        let sets = all!(list_defined_set, api::ListDefinedSetRequest { defined_type: defined, name: String::new() });
        assert_eq!(sets[0].defined_set.as_ref().unwrap().list, ["10.0.0.2/32"]);
        let policies = all!(list_policy, api::ListPolicyRequest::default());
        let export = &policies[1].policy.as_ref().unwrap().statements[0];
        assert_eq!(
            export.conditions.as_ref().unwrap().prefix_set.as_ref().unwrap().r#type(),
            api::match_set::Type::Any
        );
        let assignments = all!(list_policy_assignment, api::ListPolicyAssignmentRequest::default());
        assert_eq!(assignments.len(), 2);
        assert_eq!(all!(list_statement, api::ListStatementRequest { name: "pods".into() }).len(), 1);

        client.reset_peer(api::ResetPeerRequest { address: "10.0.0.2".into(), ..Default::default() }).await.unwrap();
        assert_eq!(all!(list_path, table(api::TableType::Global, "", v4)).len(), 2);

        // Nothing is answered after the end, also on connections that are still there.
        server.serving.abort();
        while !server.serving.is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.get_bgp(api::GetBgpRequest {}).await.unwrap_err().code(), tonic::Code::Unavailable);
    });
}

/// What is read is made while it is read, and who stops reading stops nobody else.
#[test]
fn large_table() {
    use api::go_bgp_service_client::GoBgpServiceClient;

    const NETWORKS: u32 = 30_000;
    let mut world = world();
    let mut ops = Vec::new();
    for i in 0..NETWORKS {
        let prefix = format!("{}/32", Ipv4Addr::from(0x6440_0000 + i));
        ops.push(network(&prefix, "10.0.0.1"));
    }
    let now = world.now;
    world.nodes[0].1.apply(now, &ops);
    world.settle();
    let server = Server::start(world);
    server.runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
        let mut client = GoBgpServiceClient::new(endpoint.connect().await.unwrap());
        let family = Some(api::Family { afi: 1, safi: 1 });
        let request = api::ListPathRequest { table_type: 1, family, ..Default::default() };
        let mut stalled = Vec::new();
        for _ in 0..16 {
            // One each, as what is not read also fills its connection.
            let mut slow = GoBgpServiceClient::new(endpoint.connect().await.unwrap());
            let mut stream = slow.list_path(request.clone()).await.unwrap().into_inner();
            assert!(stream.message().await.unwrap().is_some());
            stalled.push(stream);
        }
        assert_eq!(client.list_path(request.clone()).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
        client.get_bgp(api::GetBgpRequest {}).await.unwrap();
        drop(stalled);
        let mut stream = loop {
            match client.list_path(request.clone()).await {
                Ok(stream) => break stream.into_inner(),
                Err(e) => assert_eq!(e.code(), tonic::Code::ResourceExhausted),
            }
        };
        let mut count = 0;
        while stream.message().await.unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, NETWORKS + 3);
    });
    if let Some(text) = ok(&server, "global rib") {
        assert_eq!(text.lines().count(), NETWORKS as usize + 5);
    }
}

#[test]
fn our_own_client() {
    let server = Server::start(world());
    let address = server.address.to_string();
    let mut client = Client::connect(&address).unwrap();
    let neighbors = client.neighbors(None).unwrap();
    assert_eq!(neighbors.iter().map(|n| n.address.as_str()).collect::<Vec<_>>(), ["10.0.0.2", "10.0.0.3", "10.0.9.4"]);
    let up = &neighbors[0];
    // Both sides dialed at once, so an earlier session may have lost the collision.
    assert_eq!((up.asn, up.state.as_str(), up.established.min(1)), (64513, "Established", 1));
    let counts: Vec<_> =
        up.families.iter().map(|f| (f.family.as_str(), f.received, f.accepted, f.advertised)).collect();
    assert_eq!(counts, [("ipv4", 3, 2, 1), ("ipv6", 1, 1, 1)]);
    assert!(up.capabilities_received.iter().any(|c| c == "four-octet AS 64513"), "{:?}", up.capabilities_received);
    assert_eq!(neighbors[1].since_ms, None);
    assert!(neighbors[2].dynamic);
    let bfd: Vec<_> = neighbors.iter().map(|n| n.bfd.as_ref().map(|bfd| bfd.state.as_str())).collect();
    assert_eq!(bfd, [Some("Up"), None, None]);
    assert!(!serde_json::to_string(&neighbors).unwrap().contains("sesame"));
    let refused = |result: Result<Vec<_>, ClientError>| result.unwrap_err().to_string();
    assert!(refused(client.neighbors(Some("10.9.9.9".parse().unwrap()))).contains("10.9.9.9"));

    let mut paths = |table, neighbor: Option<&str>, ipv6, prefix: &str| -> Result<Vec<String>, ClientError> {
        let neighbor = neighbor.map(|n| n.parse().unwrap());
        client.paths(table, neighbor, ipv6, prefix)?.map(|path| Ok(path?.prefix)).collect()
    };
    let rib = paths(Table::LocRib, None, false, "").unwrap();
    assert_eq!(rib, ["10.1.0.0/24", "10.2.0.0/16", "10.2.1.0/24", "10.2.1.0/24"]);
    assert_eq!(paths(Table::LocRib, None, false, "10.2.1.9").unwrap().len(), 2);
    assert_eq!(paths(Table::LocRib, None, false, "10.2.9.9").unwrap(), ["10.2.0.0/16"]);
    assert_eq!(paths(Table::LocRib, None, false, "2001:db8:2::1").unwrap(), ["2001:db8:2::/64"]);
    let received = paths(Table::AdjRibIn, Some("10.0.0.2"), false, "").unwrap();
    assert_eq!(received, ["10.2.0.0/16", "10.2.1.0/24", "192.168.7.0/24"]);
    assert_eq!(paths(Table::AdjRibOut, Some("10.0.0.2"), true, "").unwrap(), ["2001:db8:1::/64"]);
    assert!(paths(Table::AdjRibOut, Some("10.9.9.9"), false, "").is_err());
    assert!(paths(Table::LocRib, None, false, "nonsense").unwrap_err().to_string().contains("nonsense"));

    let why = client.explain("10.2.1.0/24").unwrap();
    let verdicts: Vec<_> = why.paths.iter().map(|p| (p.path.as_ref().unwrap().best, p.verdict.as_str())).collect();
    assert_eq!(verdicts[0], (true, "best"));
    assert!(verdicts[1].1.contains("AS_PATH"), "{verdicts:?}");
    assert_eq!(why.next_hops, ["10.0.9.4"]);
    assert_eq!(why.kernel, "nothing of 10.2.1.0/24");
    let why = client.explain("192.168.7.1").unwrap();
    assert!(why.paths[0].verdict.contains("no-bad"), "{:?}", why.paths[0].verdict);
    let why = client.explain("10.1.0.0/24").unwrap();
    let told: Vec<_> = why.neighbors.iter().map(|n| (n.neighbor.as_str(), n.advertised)).collect();
    assert_eq!(told, [("10.0.0.2", true), ("10.0.9.4", false)]);
    assert!(why.neighbors[0].reason.contains("pods"), "{:?}", why.neighbors[0].reason);
    assert!(client.explain("172.16.0.0/12").unwrap_err().to_string().contains("no route to 172.16.0.0/12"));

    assert_eq!(client.status().unwrap().node, "vm-001");
    let past: Vec<_> = client.events(false).unwrap().map(|e| e.unwrap()).collect();
    assert!(past.iter().any(|e| e.kind == "established" && e.neighbor.as_deref() == Some("10.0.0.2")), "{past:?}");
    let mut reset = Client::connect(&address).unwrap();
    let mut following = client.events(true).unwrap().skip(past.len());
    assert!(reset.neighbors(None).is_ok());
    server.runtime.block_on(async {
        use api::go_bgp_service_client::GoBgpServiceClient;
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let mut gobgp = GoBgpServiceClient::new(channel.connect().await.unwrap());
        gobgp.reset_peer(api::ResetPeerRequest { address: "10.0.0.2".into(), ..Default::default() }).await.unwrap();
    });
    let event = following.next().unwrap().unwrap();
    assert_eq!((event.kind.as_str(), event.neighbor.as_deref()), ("down", Some("10.0.0.2")));
    let nobody = Client::connect("127.0.0.1:1").unwrap_err().to_string();
    assert!(nobody.contains("127.0.0.1:1") && nobody.contains("refused"), "{nobody}");
}
