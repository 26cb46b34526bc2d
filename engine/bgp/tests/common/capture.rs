//! Records what gobgpd and BIRD say to a neighbour that is a few lines of test. Only the ignored test that makes the
//! vectors again uses it, in a network namespace of its own.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fairway_bgp::wire::{
    AsPath, Attributes, Capability, Context, Message, Nlri, Open, Origin, Reach, RestartFamily, RouteRefresh,
    StaleFamily, Update,
};
use fairway_desired::bgp::Families;

use crate::Recording;

const INSIDE: &str = "FAIRWAY_CAPTURE_INSIDE";

/// Whether this process is inside a namespace of its own. If not, it runs the test again in one.
pub(crate) fn enter(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        let setup = "ip link set lo up && for n in 1 2 3; do ip address add 10.0.0.$n/24 dev lo && \
                     ip address add fd00::$n/64 dev lo nodad || exit 1; done";
        assert!(Command::new("sh").args(["-c", setup]).status().unwrap().success());
        return true;
    }
    let status = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}

/// A daemon, as long as it is held.
struct Daemon {
    child: Child,
    folder: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Daemon {
    fn start(program: &str, config: &str, args: fn(&Path) -> Vec<String>) -> Daemon {
        let folder = std::env::temp_dir().join(format!("fairway-capture-{program}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("conf"), config).unwrap();
        let child = Command::new(program).args(args(&folder)).stdout(Stdio::null()).spawn().unwrap();
        Daemon { child, folder }
    }

    fn gobgpd(config: &str) -> Daemon {
        Self::start("gobgpd", config, |folder| vec!["-f".into(), folder.join("conf").display().to_string()])
    }

    fn bird(config: &str) -> Daemon {
        Self::start("bird", config, |folder| {
            let file = |name: &str| folder.join(name).display().to_string();
            vec!["-f".into(), "-c".into(), file("conf"), "-s".into(), file("ctl"), "-P".into(), file("pid")]
        })
    }

    /// `birdc` with one command.
    fn birdc(&self, command: &str) {
        let control = self.folder.join("ctl");
        let status = Command::new("birdc").arg("-s").arg(control).arg(command).stdout(Stdio::null()).status();
        assert!(status.unwrap().success(), "{command}");
    }

    /// Another configuration, live.
    fn reconfigure(&self, config: &str) {
        fs::write(self.folder.join("conf"), config).unwrap();
        self.birdc("configure");
    }
}

/// `gobgp` with these words.
fn gobgp(words: &str) {
    let output = Command::new("gobgp").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "gobgp {words}: {output:?}");
}

/// What a neighbour says of itself.
struct Us {
    address: Ipv4Addr,
    asn: u32,
    capabilities: Vec<Capability>,
}

fn multiprotocol() -> Vec<Capability> {
    [1, 2].map(|afi| Capability::Multiprotocol { afi, safi: 1 }).into()
}

/// Everything there is.
fn everything(asn: u32) -> Vec<Capability> {
    let families = [1, 2].map(|afi| RestartFamily { afi, safi: 1, forwarding: true }).into();
    let stale = [1, 2].map(|afi| StaleFamily { afi, safi: 1, forwarding: true, time_s: 600 }).into();
    let mut all = multiprotocol();
    all.extend([
        Capability::RouteRefresh,
        Capability::ExtendedNextHop(vec![(1, 1, 2)]),
        Capability::ExtendedMessage,
        Capability::GracefulRestart { restarted: false, notification: true, time_s: 60, families },
        Capability::FourOctetAs(asn),
        Capability::AddPath(vec![(1, 1, 3), (2, 1, 3)]),
        Capability::EnhancedRefresh,
        Capability::LongLived(stale),
    ]);
    all
}

fn usual(asn: u32) -> Vec<Capability> {
    let mut some = multiprotocol();
    some.extend([Capability::RouteRefresh, Capability::FourOctetAs(asn)]);
    some
}

/// A connection from a daemon.
struct Talk {
    stream: TcpStream,
    rx: Vec<u8>,
    recording: Recording,
    seen_keepalive: bool,
}

/// A daemon that is quiet for so long has said all it wanted. BIRD thinks for two seconds before it tells its routes.
const QUIET: Duration = Duration::from_secs(3);

impl Talk {
    /// Waits for the daemon, and for its OPEN.
    fn begin(us: &Us) -> Talk {
        let listener = TcpListener::bind((us.address, 179)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                Err(e) => panic!("no connection: {e}"),
            }
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let recording = Recording { context: Context::default(), messages: vec![] };
        Talk { stream, rx: vec![], recording, seen_keepalive: false }
    }

    fn say(&mut self, message: &Message) {
        let bytes = message.encode(self.recording.context).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Brings the session up; what is sent from then on is negotiated.
    fn open(us: &Us) -> Talk {
        let mut talk = Talk::begin(us);
        talk.read("its OPEN", |m| matches!(m, Message::Open(_)));
        talk.say(&Message::Open(Open {
            asn2: u16::try_from(us.asn).unwrap_or(23456),
            hold_s: 90,
            router_id: us.address,
            capabilities: us.capabilities.clone(),
        }));
        let bytes = &talk.recording.messages[0].1;
        let Some((Message::Open(theirs), _)) = Message::decode(bytes, Context::default()).unwrap() else { panic!() };
        let both = |c: &Capability| us.capabilities.contains(c) && theirs.capabilities.contains(c);
        let four = |list: &[Capability]| list.iter().any(|c| matches!(c, Capability::FourOctetAs(_)));
        // The daemon sends several paths if it says so, and we receive them.
        let paths = |family: u16| {
            let mode = |list: &[Capability], bit: u8| {
                list.iter().any(|c| match c {
                    Capability::AddPath(list) => list.iter().any(|(afi, _, mode)| *afi == family && mode & bit != 0),
                    _ => false,
                })
            };
            mode(&theirs.capabilities, 2) && mode(&us.capabilities, 1)
        };
        let context = Context {
            four_octet_as: four(&us.capabilities) && four(&theirs.capabilities),
            extended_messages: both(&Capability::ExtendedMessage),
            add_path: Families { v4: paths(1), v6: paths(2) },
            external: false,
        };
        talk.say(&Message::Keepalive);
        talk.recording.context = context;
        talk
    }

    /// Records all until one is what we wait for.
    fn read(&mut self, why: &str, wanted: impl Fn(&Message) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.step(why, &wanted) {
            assert!(Instant::now() < end, "{why}: nothing came");
        }
    }

    /// Records all until nothing more comes.
    fn read_all(&mut self, why: &str) {
        let mut last = Instant::now();
        while last.elapsed() < QUIET {
            let before = self.recording.messages.len();
            self.step(why, &|_| false);
            if self.recording.messages.len() > before {
                last = Instant::now();
            }
        }
    }

    fn step(&mut self, why: &str, wanted: &dyn Fn(&Message) -> bool) -> bool {
        let mut found = false;
        while let Some((message, len)) = Message::decode(&self.rx, self.recording.context).unwrap() {
            found |= wanted(&message);
            let bytes: Vec<u8> = self.rx.drain(..len).collect();
            // They are all the same.
            if message == Message::Keepalive && std::mem::replace(&mut self.seen_keepalive, true) {
                continue;
            }
            self.recording.messages.push((why.into(), bytes));
            if found {
                return true;
            }
        }
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => {}
            Ok(n) => self.rx.extend(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
            Err(e) => panic!("{e}"),
        }
        found
    }
}

fn is_notification(m: &Message) -> bool {
    matches!(m, Message::Notification(_))
}

const SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const THIRD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

fn gobgpd_config(asn: u32, neighbors: &[String]) -> String {
    format!(
        "[global.config]\nas = {asn}\nrouter-id = \"10.0.0.1\"\nport = 179\nlocal-address-list = [\"10.0.0.1\"]\n{}",
        neighbors.concat()
    )
}

fn gobgpd_neighbor(last: u8, asn: u32, more: &str, family: &str) -> String {
    let families = ["ipv4", "ipv6"].map(|f| {
        format!(
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{f}-unicast\"\n{}",
            family.replace("AF.", "neighbors.afi-safis.")
        )
    });
    format!(
        "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"10.0.0.{last}\"\npeer-as = {asn}\n\
         [neighbors.transport.config]\nlocal-address = \"10.0.0.1\"\n\
         [neighbors.timers.config]\nconnect-retry = 1\nhold-time = 90\n{more}{}",
        families.concat()
    )
}

/// Several sessions of one recording follow each other.
fn joined(mut first: Recording, more: Vec<Recording>) -> Recording {
    first.messages.extend(more.into_iter().flat_map(|r| r.messages));
    first
}

fn gobgpd_everything() -> Recording {
    let graceful = "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 120\n\
                    notification-enabled = true\nlong-lived-enabled = true\n";
    let family = "[AF.mp-graceful-restart.config]\nenabled = true\n\
                  [AF.long-lived-graceful-restart.config]\nenabled = true\nrestart-time = 3600\n\
                  [AF.add-paths.config]\nreceive = true\nsend-max = 4\n";
    let config = gobgpd_config(4_200_000_001, &[gobgpd_neighbor(2, 65002, graceful, family)]);
    let _daemon = Daemon::gobgpd(&config);
    let mut talk = Talk::open(&Us { address: SECOND, asn: 65002, capabilities: everything(65002) });
    talk.read_all("what it says when the session is up");
    gobgp("global rib add 10.9.1.0/24 identifier 7 nexthop 10.0.0.1");
    talk.read_all("gobgp global rib add 10.9.1.0/24 identifier 7 nexthop 10.0.0.1");
    gobgp("global rib add 10.9.1.0/24 identifier 8 nexthop 10.0.0.1 med 9");
    talk.read_all("gobgp global rib add 10.9.1.0/24 identifier 8 nexthop 10.0.0.1 med 9");
    gobgp("global rib del 10.9.1.0/24 identifier 7");
    talk.read_all("gobgp global rib del 10.9.1.0/24 identifier 7");
    gobgp("global rib -a ipv6 add fd00:9:1::/64 nexthop fd00::1");
    talk.read_all("gobgp global rib -a ipv6 add fd00:9:1::/64 nexthop fd00::1");
    gobgp("global rib -a ipv6 del fd00:9:1::/64");
    talk.read_all("gobgp global rib -a ipv6 del fd00:9:1::/64");
    talk.say(&Message::RouteRefresh(RouteRefresh { afi: 1, subtype: 0, safi: 1 }));
    talk.read_all("asked by ROUTE-REFRESH");
    gobgp("neighbor 10.0.0.2 disable --reason maintenance");
    talk.read("gobgp neighbor 10.0.0.2 disable --reason maintenance", is_notification);
    talk.recording
}

fn gobgpd_attributes() -> Recording {
    let _daemon = Daemon::gobgpd(&gobgpd_config(65001, &[gobgpd_neighbor(2, 65002, "", "")]));
    let mut talk = Talk::open(&Us { address: SECOND, asn: 65002, capabilities: usual(65002) });
    talk.read_all("what it says when the session is up");
    for words in [
        "global rib add 10.9.0.0/24 nexthop 10.0.0.1",
        "global rib add 10.9.1.0/24 nexthop 10.0.0.1 origin incomplete med 50",
        "global rib add 10.9.2.0/25 nexthop 10.0.0.1 community 65001:1,no-export,65535:0",
        "global rib add 10.9.3.128/32 nexthop 10.0.0.1 large-community 65001:1:2,4200000001:7:8",
        "global rib add 10.9.4.0/22 nexthop 10.0.0.1 rt 65001:100 10.0.0.1:7",
        "global rib add 10.9.8.0/24 nexthop 10.0.0.1 aspath 65007,4200000008,65009",
        "global rib add 10.9.9.0/24 nexthop 10.0.0.1 aspath 65007,{65010,65011}",
        "global rib add 10.9.10.0/24 nexthop 10.0.0.1 aggregator 65001:10.0.0.9",
        "global rib add 0.0.0.0/0 nexthop 10.0.0.1",
        "global rib -a ipv6 add fd00:9::/48 nexthop fd00::1 community 65001:1 med 3",
        "global rib -a ipv6 add ::/0 nexthop fd00::1",
        "global rib del 10.9.0.0/24",
        "global rib del 0.0.0.0/0",
        "global rib -a ipv6 del fd00:9::/48",
        "neighbor 10.0.0.2 softresetout",
    ] {
        gobgp(words);
        talk.read_all(&format!("gobgp {words}"));
    }
    gobgp("neighbor 10.0.0.2 reset --reason again");
    talk.read("gobgp neighbor 10.0.0.2 reset --reason again", is_notification);
    talk.recording
}

/// To a speaker without four-octet AS numbers.
fn gobgpd_two_octets() -> Recording {
    let _daemon = Daemon::gobgpd(&gobgpd_config(4_200_000_001, &[gobgpd_neighbor(2, 65002, "", "")]));
    let mut talk = Talk::open(&Us { address: SECOND, asn: 65002, capabilities: multiprotocol() });
    talk.read_all("what it says when the session is up");
    for words in [
        "global rib add 10.9.0.0/24 nexthop 10.0.0.1",
        "global rib add 10.9.8.0/24 nexthop 10.0.0.1 aspath 65007,4200000008,65009",
        "global rib add 10.9.10.0/24 nexthop 10.0.0.1 aggregator 4200000009:10.0.0.9",
    ] {
        gobgp(words);
        talk.read_all(&format!("gobgp {words}"));
    }
    talk.recording
}

/// As a reflector: what one client says reaches the other.
fn gobgpd_reflector() -> Recording {
    let client = "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
                  route-reflector-cluster-id = \"1.2.3.4\"\n";
    let neighbors = [2, 3].map(|last| gobgpd_neighbor(last, 65001, client, ""));
    let _daemon = Daemon::gobgpd(&gobgpd_config(65001, &neighbors));
    let mut first = Talk::open(&Us { address: SECOND, asn: 65001, capabilities: usual(65001) });
    first.read_all("");
    let mut talk = Talk::open(&Us { address: THIRD, asn: 65001, capabilities: usual(65001) });
    talk.read_all("what it says when the session is up");
    let attributes = Attributes {
        origin: Origin::Igp,
        as_path: AsPath::sequence(&[65009]),
        local_pref: Some(200),
        ..Attributes::own()
    };
    let prefixes: Vec<Nlri> =
        ["10.8.0.0/24", "10.8.1.0/24"].iter().map(|p| p.parse::<ipnet::IpNet>().unwrap().into()).collect();
    let reach = Some(Reach { next_hop: SECOND.into(), prefixes: prefixes.clone() });
    first.say(&Message::Update(Update { attributes: Some(attributes.into()), reach, ..Update::default() }));
    talk.read_all("another client announces two prefixes");
    first.say(&Message::Update(Update { withdrawn: prefixes, ..Update::default() }));
    talk.read_all("it withdraws them");
    talk.recording
}

/// What it says to those who do it wrong.
fn refusals(daemon: &dyn Fn() -> Daemon) -> Recording {
    let good = |us: &Us| Open { asn2: 65002, hold_s: 90, router_id: us.address, capabilities: us.capabilities.clone() };
    let us = Us { address: SECOND, asn: 65002, capabilities: usual(65002) };
    let mut all = vec![];
    for (why, open) in [
        ("an OPEN of another AS", Open { asn2: 65003, capabilities: usual(65003), ..good(&us) }),
        ("an OPEN with a hold time of 1 s", Open { hold_s: 1, ..good(&us) }),
        ("an OPEN without an identifier", Open { router_id: Ipv4Addr::UNSPECIFIED, ..good(&us) }),
    ] {
        let _daemon = daemon();
        let mut talk = Talk::begin(&us);
        talk.read("its OPEN", |m| matches!(m, Message::Open(_)));
        talk.recording.messages.clear();
        talk.say(&Message::Open(open));
        talk.read_all(why);
        all.push(talk.recording);
    }
    for (why, bytes) in [
        ("a broken marker", vec![0; 19]),
        ("a message of type 9", [vec![0xff; 16], vec![0, 19, 9]].concat()),
        ("a message of 18 octets", [vec![0xff; 16], vec![0, 18, 4]].concat()),
        ("an UPDATE in the wrong place", [vec![0xff; 16], vec![0, 23, 2, 0, 0, 0, 0]].concat()),
    ] {
        let _daemon = daemon();
        let mut talk = Talk::begin(&us);
        talk.read("its OPEN", |m| matches!(m, Message::Open(_)));
        talk.recording.messages.clear();
        talk.stream.write_all(&bytes).unwrap();
        // Not everything is answered by everyone.
        talk.read_all(why);
        all.push(talk.recording);
    }
    let first = Recording { context: Context::default(), messages: vec![] };
    joined(first, all)
}

fn bird_config(asn: u32, peer_as: u32, session: &str, channel: &str, routes: &str, filter: &str) -> String {
    let v6 = "fd00:9::/48 fd00:9:1::/64";
    let v6: String = v6.split(' ').map(|net| format!("route {net} blackhole; ")).collect();
    let v4: String =
        routes.split(' ').filter(|r| !r.is_empty()).map(|net| format!("route {net} blackhole; ")).collect();
    format!(
        "log stderr all;\nrouter id 10.0.0.1;\nprotocol device {{ }}\n\
         protocol static s4 {{ ipv4; {v4} }}\nprotocol static s6 {{ ipv6; {v6} }}\n\
         filter ours {{ if source != RTS_STATIC then reject; {filter} accept; }}\n\
         protocol bgp peer {{\n local 10.0.0.1 as {asn};\n neighbor 10.0.0.2 as {peer_as};\n multihop;\n \
         strict bind yes;\n hold time 90;\n connect delay time 1;\n error wait time 1, 2;\n {session}\n \
         ipv4 {{ import all; export filter ours; next hop self; {channel} }};\n \
         ipv6 {{ import all; export filter ours; next hop address fd00::1; {channel} }};\n}}\n"
    )
}

fn bird_everything() -> Recording {
    let session = "graceful restart on; graceful restart time 120; long lived graceful restart on; \
                   long lived stale time 3600; enable extended messages on; enable route refresh on;";
    let config = |routes: &str| bird_config(4_200_000_001, 65002, session, "add paths on;", routes, "");
    let daemon = Daemon::bird(&config("10.9.0.0/24 10.9.1.0/25 10.9.2.4/32 0.0.0.0/0"));
    let mut talk = Talk::open(&Us { address: SECOND, asn: 65002, capabilities: everything(65002) });
    talk.read_all("what it says when the session is up");
    daemon.reconfigure(&config("10.9.0.0/24"));
    talk.read_all("three routes are taken away");
    daemon.birdc("disable s6");
    talk.read_all("birdc disable s6");
    daemon.birdc("reload in peer");
    talk.read_all("birdc reload in peer");
    talk.say(&Message::RouteRefresh(RouteRefresh { afi: 1, subtype: 0, safi: 1 }));
    talk.read_all("asked by ROUTE-REFRESH");
    daemon.birdc("disable peer \"maintenance\"");
    talk.read("birdc disable peer \"maintenance\"", is_notification);
    talk.recording
}

fn bird_attributes() -> Recording {
    let filter = "if net = 10.9.0.0/24 then { bgp_community.add((65001, 1)); bgp_community.add((65535, 65281)); } \
                  if net = 10.9.1.0/24 then { bgp_large_community.add((65001, 1, 2)); \
                  bgp_large_community.add((4200000001, 7, 8)); } \
                  if net = 10.9.2.0/24 then { bgp_ext_community.add((rt, 65001, 100)); \
                  bgp_ext_community.add((ro, 10.0.0.1, 7)); bgp_ext_community.add((generic, 0x43000000, 1)); } \
                  if net = 10.9.3.0/24 then { bgp_med = 50; bgp_origin = ORIGIN_EGP; } \
                  if net = 10.9.4.0/24 then { bgp_path.prepend(4200000008); bgp_path.prepend(65007); } \
                  if net = fd00:9:1::/64 then { bgp_community.add((65001, 1)); bgp_med = 3; }";
    let routes = "10.9.0.0/24 10.9.1.0/24 10.9.2.0/24 10.9.3.0/24 10.9.4.0/24 10.9.5.0/24 10.9.6.0/24";
    let daemon = Daemon::bird(&bird_config(65001, 65002, "", "", routes, filter));
    let mut talk = Talk::open(&Us { address: SECOND, asn: 65002, capabilities: usual(65002) });
    talk.read_all("what it says when the session is up");
    daemon.birdc("restart peer");
    talk.read("birdc restart peer", is_notification);
    drop(daemon);
    // The same to an internal neighbour: LOCAL_PREF.
    let filter = format!("{filter} if net = 10.9.5.0/24 then bgp_local_pref = 300;");
    let _daemon = Daemon::bird(&bird_config(65001, 65001, "", "", routes, &filter));
    let mut internal = Talk::open(&Us { address: SECOND, asn: 65001, capabilities: usual(65001) });
    internal.read_all("to an internal neighbour");
    joined(talk.recording, vec![internal.recording])
}

fn bird_two_octets() -> Recording {
    let filter = "if net = 10.9.4.0/24 then { bgp_path.prepend(4200000008); bgp_path.prepend(65007); }";
    let config = bird_config(4_200_000_001, 65002, "enable as4 on;", "", "10.9.0.0/24 10.9.4.0/24", filter);
    let _daemon = Daemon::bird(&config);
    let mut talk = Talk::open(&Us { address: SECOND, asn: 65002, capabilities: multiprotocol() });
    talk.read_all("what it says when the session is up");
    talk.recording
}

/// IPv4 routes with IPv6 next hops, packed together.
fn bird_many() -> Recording {
    let routes: Vec<String> = (0..600).map(|i| format!("10.{}.{}.0/24", 100 + i / 256, i % 256)).collect();
    let session = "enable extended messages on;";
    let config = bird_config(65001, 65002, session, "extended next hop on;", &routes.join(" "), "");
    let config = config.replacen("next hop self;", "next hop address fd00::1;", 1);
    let _daemon = Daemon::bird(&config);
    let mut talk = Talk::open(&Us { address: SECOND, asn: 65002, capabilities: everything(65002) });
    talk.read_all("what it says when the session is up");
    talk.recording
}

/// What it answers to a neighbour that it does not like while the session is up.
fn bird_errors() -> Recording {
    let mut all = vec![];
    let message = |text: &str| {
        let body = crate::unhex(&text.split_whitespace().collect::<String>());
        [vec![0xff; 16], ((19 + body.len()) as u16).to_be_bytes().to_vec(), vec![2], body].concat()
    };
    for (why, bytes) in [
        ("a prefix of 33 bits", message("0000 0000 21 0a00000000")),
        ("an unknown well-known attribute", message("0000 0004 401e01 00")),
        ("MP_UNREACH_NLRI twice", message("0000 000c 800f03 0002 01 800f03 0002 01")),
    ] {
        let _daemon = Daemon::bird(&bird_config(65001, 65002, "", "", "", ""));
        let mut talk = Talk::open(&Us { address: SECOND, asn: 65002, capabilities: usual(65002) });
        talk.read_all("");
        talk.recording.messages.clear();
        talk.stream.write_all(&bytes).unwrap();
        talk.read(why, is_notification);
        all.push(talk.recording);
    }
    // Too many prefixes, and a NOTIFICATION of ours that it does not answer.
    let limited = bird_config(65001, 65002, "", "import limit 1 action disable;", "", "");
    let _daemon = Daemon::bird(&limited);
    let mut talk = Talk::open(&Us { address: SECOND, asn: 65002, capabilities: usual(65002) });
    talk.read_all("");
    talk.recording.messages.clear();
    let attributes = Attributes { origin: Origin::Igp, as_path: AsPath::sequence(&[65002]), ..Attributes::own() };
    let prefixes = ["10.8.0.0/24", "10.8.1.0/24"].iter().map(|p| p.parse::<ipnet::IpNet>().unwrap().into()).collect();
    let reach = Some(Reach { next_hop: SECOND.into(), prefixes });
    talk.say(&Message::Update(Update { attributes: Some(attributes.into()), reach, ..Update::default() }));
    talk.read("two prefixes where one is allowed", is_notification);
    all.push(talk.recording);
    joined(Recording { context: all[0].context, messages: vec![] }, all)
}

fn gobgpd_refusals() -> Recording {
    refusals(&|| Daemon::gobgpd(&gobgpd_config(65001, &[gobgpd_neighbor(2, 65002, "", "")])))
}

fn bird_refusals() -> Recording {
    refusals(&|| Daemon::bird(&bird_config(65001, 65002, "", "", "10.9.0.0/24", "")))
}

/// Name, title, and how it is made.
type Conversation = (&'static str, &'static str, fn() -> Recording);

/// The recordings that are asked for.
pub(crate) fn wanted() -> impl Iterator<Item = Conversation> {
    let only = std::env::var("FAIRWAY_CAPTURE").unwrap_or_default();
    ALL.into_iter().filter(move |(name, ..)| name.contains(&only))
}

const ALL: [Conversation; 11] = [
    ("gobgpd-everything", "gobgpd 3.10.0, with all it can", gobgpd_everything),
    ("gobgpd-attributes", "gobgpd 3.10.0, attributes", gobgpd_attributes),
    ("gobgpd-two-octets", "gobgpd 3.10.0, to a neighbour without four-octet AS numbers", gobgpd_two_octets),
    ("gobgpd-reflector", "gobgpd 3.10.0, a route reflector with two clients", gobgpd_reflector),
    ("gobgpd-refusals", "gobgpd 3.10.0, what it refuses", gobgpd_refusals),
    ("bird-everything", "BIRD 2.0.12, with all it can", bird_everything),
    ("bird-attributes", "BIRD 2.0.12, attributes", bird_attributes),
    ("bird-two-octets", "BIRD 2.0.12, to a neighbour without four-octet AS numbers", bird_two_octets),
    ("bird-many", "BIRD 2.0.12, many IPv4 routes over IPv6", bird_many),
    ("bird-refusals", "BIRD 2.0.12, what it refuses", bird_refusals),
    ("bird-errors", "BIRD 2.0.12, what ends a session", bird_errors),
];
