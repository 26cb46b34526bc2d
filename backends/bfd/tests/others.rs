//! Sessions with the BFD of BIRD and of FRR, each in a network namespace of its own.
//!
//! Both say what they see, so each expectation is held against both sides. Without root, or without the daemon, a test
//! says so and passes.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fairway_backend_bfd::Transport;
use fairway_bfd::{Bfd, Diagnostic, Event, Input, MULTIHOP_PORT, Output, PORT, Settings, State};
use nix::sched::{CloneFlags, unshare};

/// Nothing is judged by its speed; this is when waiting is given up.
const LIMIT: Duration = Duration::from_secs(30);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Runs a program and returns what it says; panics if it fails.
fn tool(program: &str, words: &str) -> String {
    let output = Command::new(program).args(words.split_whitespace()).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {words}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The thread moves into a new network namespace. False, with the reason printed, if that is not possible here.
fn alone(programs: &[&str]) -> bool {
    if let Some(missing) = programs.iter().find(|program| !Path::new(program).exists()) {
        println!("skipped: {missing} is not installed");
        return false;
    }
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("skipped: no network namespace: {error}");
        return false;
    }
    true
}

/// A neighbour in a namespace of its own, joined to ours by a wire. It ends with this value, and with this thread.
struct Neighbor {
    process: Child,
    folder: PathBuf,
}

impl Neighbor {
    /// Ours is 10.9.0.1 and fd00:9::1 on v0, and 10.9.1.1 behind it; theirs 10.9.0.2 and so on. `start` is what the
    /// neighbour's shell runs when all of that is there; `$dir` is a folder for it.
    fn new(name: &str, files: &[(&str, &str)], start: &str) -> Neighbor {
        let folder = std::env::temp_dir().join(format!("fairway-bfd-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text.replace("$dir", &folder.to_string_lossy())).unwrap();
        }
        let script = format!(
            "until ip link show v1 >/dev/null 2>&1; do sleep 0.02; done
             set -e; dir={}; cd $dir
             ip link set lo up; ip link set v1 up
             ip addr add 10.9.0.2/24 dev v1; ip addr add fd00:9::2/64 dev v1 nodad; ip addr add 10.9.1.2/32 dev lo
             ip route add 10.9.1.1/32 via 10.9.0.1
             {start}",
            folder.display()
        );
        let log = fs::File::create(folder.join("log")).unwrap();
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let neighbor = Neighbor { process, folder };
        let space = |who: &str| fs::read_link(format!("/proc/{who}/ns/net")).ok();
        let pid = neighbor.process.id().to_string();
        let limit = Instant::now() + LIMIT;
        while space(&pid).is_none() || space(&pid) == space("thread-self") {
            assert!(Instant::now() < limit, "no namespace: {}", neighbor.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        for words in [
            "link set lo up",
            "link add v0 type veth peer name v1",
            "addr add 10.9.0.1/24 dev v0",
            "addr add fd00:9::1/64 dev v0 nodad",
            "addr add 10.9.1.1/32 dev lo",
            "link set v0 up",
            &format!("link set v1 netns {pid}"),
            "route add 10.9.1.2/32 via 10.9.0.2",
        ] {
            tool("ip", words);
        }
        neighbor
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Sends a signal to the daemon whose process identifier is in this file, or to the process itself.
    fn signal(&self, signal: &str, file: Option<&str>) {
        let pid = match file {
            Some(file) => fs::read_to_string(self.folder.join(file)).unwrap(),
            None => self.process.id().to_string(),
        };
        tool("kill", &format!("-{signal} {}", pid.trim()));
    }
}

impl Drop for Neighbor {
    fn drop(&mut self) {
        // Whatever else it started has the same parent of last resort: the namespace's processes by their files.
        for file in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if file.path().extension().is_some_and(|extension| extension == "pid")
                && let Ok(pid) = fs::read_to_string(file.path())
            {
                let _gone = Command::new("kill").args(["-KILL", pid.trim()]).stderr(Stdio::null()).status();
            }
        }
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
        let _left = fs::remove_dir_all(&self.folder);
    }
}

/// Our side: the machine, its sockets and a clock.
struct Us {
    bfd: Bfd,
    transport: Transport,
    epoch: Instant,
    events: Vec<Event>,
}

impl Us {
    fn new() -> Us {
        Us { bfd: Bfd::new(11), transport: Transport::new(), epoch: Instant::now(), events: vec![] }
    }

    fn set(&mut self, peer: &str, settings: Option<Settings>) {
        self.bfd.set(self.epoch.elapsed(), ip(peer), settings).unwrap();
        self.drain();
    }

    fn input(&mut self, input: Input) {
        self.bfd.handle(self.epoch.elapsed(), input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.bfd.poll() {
            match output {
                Output::Event(event) => self.events.push(event),
                output => {
                    if let Err(error) = self.transport.handle(&output) {
                        let input = error.input();
                        self.bfd.handle(self.epoch.elapsed(), input);
                    }
                }
            }
        }
    }

    /// Lives on until something is seen.
    async fn until(&mut self, what: &str, neighbor: &Neighbor, mut seen: impl FnMut(&Us) -> bool) {
        let limit = Instant::now() + LIMIT;
        // Asking a daemon takes its time, so it is not asked after each packet.
        let mut look = Instant::now();
        loop {
            if look <= Instant::now() {
                if seen(self) {
                    return;
                }
                let sessions: Vec<_> = self.bfd.sessions().collect();
                assert!(Instant::now() < limit, "never {what}: {sessions:#?} {:?} {}", self.events, neighbor.log());
                look = Instant::now() + Duration::from_millis(100);
            }
            let at = self.bfd.deadline().map_or(look, |at| look.min(self.epoch + at));
            tokio::select! {
                biased;
                packet = self.transport.next() => self.input(packet),
                () = tokio::time::sleep_until(at.into()) => {
                    while let Some(packet) = self.transport.waiting() {
                        self.input(packet);
                    }
                    self.input(Input::Tick);
                }
            }
        }
    }

    fn states(&self) -> Vec<State> {
        self.bfd.sessions().map(|session| session.state).collect()
    }

    fn all(&self, state: State) -> bool {
        self.states().iter().all(|s| *s == state)
    }

    /// Down events since the last call, by peer: why, and whether it was a failure.
    fn downs(&mut self) -> Vec<(IpAddr, Diagnostic, bool)> {
        let mut downs: Vec<_> = std::mem::take(&mut self.events)
            .into_iter()
            .filter_map(|event| match event {
                Event::Down { peer, diagnostic, failure } => Some((peer, diagnostic, failure)),
                Event::Up { .. } => None,
            })
            .collect();
        downs.sort();
        downs
    }
}

fn settings(local: &str, ms: u32) -> Settings {
    Settings {
        local: Some(ip(local)),
        port: PORT,
        hops: 1,
        desired_min_tx_us: ms * 1000,
        required_min_rx_us: ms * 1000,
        multiplier: 5,
    }
}

fn multihop(local: &str, ms: u32) -> Settings {
    Settings { port: MULTIHOP_PORT, hops: 255, ..settings(local, ms) }
}

/// Runs in a thread of its own, which keeps the namespace for itself.
fn play<F: Future<Output = ()>>(test: impl FnOnce() -> Option<F> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Some(test) = test() {
            tokio_test::block_on(test);
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

const BIRD: &str = r#"
router id 10.9.0.2;
protocol device { scan time 1; }
protocol bfd {
  interface "v1" { min rx interval 100 ms; min tx interval 100 ms; idle tx interval 500 ms; multiplier 5; };
  multihop { min rx interval 100 ms; min tx interval 100 ms; idle tx interval 500 ms; multiplier 5; };
  neighbor 10.9.0.1 dev "v1" local 10.9.0.2;
  neighbor fd00:9::1 dev "v1" local fd00:9::2;
  neighbor 10.9.1.1 local 10.9.1.2 multihop on;
}
"#;

#[test]
fn bird() {
    play(|| alone(&["/usr/sbin/bird", "/usr/bin/setpriv"]).then(with_bird));
}

async fn with_bird() {
    let neighbor = Neighbor::new("bird", &[("conf", BIRD)], "exec bird -f -c conf -s $dir/ctl");
    let socket = neighbor.folder.join("ctl");
    let ask = |words: &str| tool("birdc", &format!("-s {} {words}", socket.display()));
    // Address, interface, state, since (two words), interval, timeout.
    let rows = || -> Vec<Vec<String>> {
        let said = ask("show bfd sessions");
        let rows = said.lines().map(|line| line.split_whitespace().map(String::from).collect::<Vec<_>>());
        rows.filter(|row| row.first().is_some_and(|word| word.parse::<IpAddr>().is_ok())).collect()
    };
    let theirs = |state: &str| rows().iter().filter(|row| row[2] == state).count();
    let interval = |peer: &str| -> Vec<String> {
        let row = rows().into_iter().find(|row| row[0] == peer).unwrap_or_default();
        row.into_iter().rev().take(2).collect()
    };

    let mut us = Us::new();
    us.set("10.9.0.2", Some(settings("10.9.0.1", 200)));
    us.set("fd00:9::2", Some(settings("fd00:9::1", 200)));
    us.set("10.9.1.2", Some(multihop("10.9.1.1", 200)));
    us.until("up", &neighbor, |us| us.all(State::Up) && theirs("Up") == 3).await;
    // Both agree: each side sends as fast as the slower one wants, and BIRD waits for five of ours.
    us.until("agreed", &neighbor, |us| {
        let ours = us.bfd.sessions().all(|s| s.tx_interval == Some(Duration::from_millis(200)));
        ours && ["10.9.0.1", "fd00:9::1", "10.9.1.1"].iter().all(|peer| interval(peer) == ["1.000", "0.200"])
    })
    .await;
    assert!(us.bfd.sessions().all(|s| s.detection_time == Duration::from_secs(1)));
    // Slower, and faster again, while it stands.
    us.set("10.9.0.2", Some(settings("10.9.0.1", 400)));
    us.until("slower", &neighbor, |_| interval("10.9.0.1") == ["2.000", "0.400"]).await;
    us.set("10.9.0.2", Some(settings("10.9.0.1", 100)));
    us.until("faster", &neighbor, |_| interval("10.9.0.1") == ["0.500", "0.100"]).await;
    assert_eq!(us.downs(), [], "timers change without a flap");
    us.set("10.9.0.2", Some(settings("10.9.0.1", 200)));

    // It hangs, and goes on.
    neighbor.signal("STOP", None);
    us.until("silent", &neighbor, |us| us.all(State::Down)).await;
    let expired = ["10.9.0.2", "10.9.1.2", "fd00:9::2"].map(|peer| (ip(peer), Diagnostic::EXPIRED, true));
    assert_eq!(us.downs(), expired);
    neighbor.signal("CONT", None);
    us.until("up again", &neighbor, |us| us.all(State::Up) && theirs("Up") == 3).await;
    us.events.clear();

    // One of ours is taken away: BIRD hears of it at once, and the others stand.
    us.set("10.9.1.2", None);
    us.until("down at the other side", &neighbor, |_| theirs("Down") == 1 && theirs("Up") == 2).await;
    assert_eq!(us.downs(), []);
}

const FRR: &str = "
bfd
 peer 10.9.0.1 local-address 10.9.0.2 interface v1
  receive-interval 100
  transmit-interval 100
  detect-multiplier 5
 peer fd00:9::1 local-address fd00:9::2 interface v1
  receive-interval 100
  transmit-interval 100
  detect-multiplier 5
 peer 10.9.1.1 multihop local-address 10.9.1.2
  receive-interval 100
  transmit-interval 100
  detect-multiplier 5
";

#[test]
fn frr() {
    play(|| alone(&["/usr/lib/frr/bfdd", "/usr/lib/frr/zebra", "/usr/bin/vtysh", "/usr/bin/setpriv"]).then(with_frr));
}

async fn with_frr() {
    let common = "-u frr -g frr -z $dir/zapi --vty_socket $dir -P 0 --log stdout";
    let start = format!(
        "chown frr:frrvty $dir $dir/conf
         /usr/lib/frr/zebra -f /dev/null -i $dir/zebra.pid {common} &
         until [ -S $dir/zapi ]; do sleep 0.05; done
         exec /usr/lib/frr/bfdd -f $dir/conf -i $dir/bfdd.pid --bfdctl $dir/bfdctl {common}"
    );
    let neighbor = Neighbor::new("frr", &[("conf", FRR)], &start);
    let folder = neighbor.folder.clone();
    let vtysh = |command: &str| {
        let folder = folder.to_string_lossy();
        let words = ["--vty_socket", &folder, "-d", "bfdd", "-c", command];
        let output = Command::new("vtysh").args(words).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let count = |text: &str| vtysh("show bfd peers json").matches(text).count();

    let mut us = Us::new();
    us.set("10.9.0.2", Some(settings("10.9.0.1", 200)));
    us.set("fd00:9::2", Some(settings("fd00:9::1", 200)));
    us.set("10.9.1.2", Some(multihop("10.9.1.1", 200)));
    us.until("up", &neighbor, |us| us.all(State::Up) && count("\"status\":\"up\"") == 3).await;
    us.until("agreed", &neighbor, |us| {
        us.bfd.sessions().all(|s| s.tx_interval == Some(Duration::from_millis(200)))
            && count("\"remote-transmit-interval\":200") == 3
            && count("\"remote-receive-interval\":200") == 3
    })
    .await;
    us.set("10.9.0.2", Some(settings("10.9.0.1", 400)));
    us.until("slower", &neighbor, |_| count("\"remote-transmit-interval\":400") == 1).await;
    us.set("10.9.0.2", Some(settings("10.9.0.1", 100)));
    us.until("faster", &neighbor, |_| count("\"remote-transmit-interval\":100") == 1).await;
    assert_eq!(us.downs(), [], "timers change without a flap");

    neighbor.signal("STOP", Some("bfdd.pid"));
    us.until("silent", &neighbor, |us| us.all(State::Down)).await;
    let expired = ["10.9.0.2", "10.9.1.2", "fd00:9::2"].map(|peer| (ip(peer), Diagnostic::EXPIRED, true));
    assert_eq!(us.downs(), expired);
    neighbor.signal("CONT", Some("bfdd.pid"));
    us.until("up again", &neighbor, |us| us.all(State::Up) && count("\"status\":\"up\"") == 3).await;
    us.events.clear();

    us.set("10.9.1.2", None);
    us.until("down at the other side", &neighbor, |_| count("\"status\":\"up\"") == 2).await;
    assert_eq!(us.downs(), []);
    // An operator stops one: no failure.
    let words = [
        "--vty_socket",
        &folder.to_string_lossy(),
        "-d",
        "bfdd",
        "-c",
        "configure",
        "-c",
        "bfd",
        "-c",
        "peer 10.9.0.1 local-address 10.9.0.2 interface v1",
        "-c",
        "shutdown",
    ]
    .map(String::from);
    let stopped = Command::new("vtysh").args(&words).stdin(Stdio::null()).status().unwrap();
    assert!(stopped.success());
    us.until("stopped", &neighbor, |us| us.bfd.session(ip("10.9.0.2")).is_some_and(|s| s.state == State::Down)).await;
    assert_eq!(us.downs(), [(ip("10.9.0.2"), Diagnostic::NEIGHBOR_DOWN, false)]);
    assert_eq!(us.bfd.session(ip("fd00:9::2")).map(|s| s.state), Some(State::Up));
}

/// The tests would pass without looking at a packet if both were skipped; a machine of ours has at least this.
#[test]
fn two_of_ours() {
    play(|| alone(&[]).then(ours));
}

async fn ours() {
    tool("ip", "link set lo up");
    let addresses = ["127.0.0.1", "127.0.0.2"];
    // One process can listen on the port only once, so one machine plays both sides: it hears itself.
    let mut us = Us::new();
    us.set(addresses[1], Some(settings(addresses[0], 100)));
    let mut other = Bfd::new(12);
    other.set(us.epoch.elapsed(), ip(addresses[0]), Some(settings(addresses[1], 100))).unwrap();
    let mut sockets = Transport::new();
    let limit = Instant::now() + LIMIT;
    loop {
        while let Some(output) = other.poll() {
            if !matches!(output, Output::Listen { .. } | Output::Event(_)) {
                sockets.handle(&output).unwrap();
            }
        }
        let up = |bfd: &Bfd, peer: &str| bfd.session(ip(peer)).unwrap().state == State::Up;
        if up(&us.bfd, addresses[1]) && up(&other, addresses[0]) {
            break;
        }
        assert!(Instant::now() < limit, "never up");
        let at = [us.bfd.deadline(), other.deadline()].into_iter().flatten().min().map(|at| us.epoch + at);
        tokio::select! {
            biased;
            packet = us.transport.next() => {
                let Input::Received { local: SocketAddr::V4(local), .. } = &packet else { panic!("{packet:?}") };
                if IpAddr::V4(*local.ip()) == ip(addresses[0]) {
                    us.input(packet);
                } else {
                    other.handle(us.epoch.elapsed(), packet);
                }
            }
            () = tokio::time::sleep_until(at.unwrap().into()) => {
                us.input(Input::Tick);
                other.handle(us.epoch.elapsed(), Input::Tick);
            }
        }
    }
}
