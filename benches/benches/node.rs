//! The daemon as a process, against our API server, on a real kernel: how long until it is in sync, what it needs, and how
//! long from a change at the API server to the kernel.
//!
//! Run it in a guest with `make bench-node`. The guest has one processor, which the API server, the daemon and this program
//! share. `FAIRWAY` names the program, `SIZES` the numbers of services (`1000,5000,10000`), each with ten endpoints.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails shall stop")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fairway_backend_route::setup::Setup;
use fairway_desired::LinkKind;
use fairway_netlink::{Message, Protocol as Netlink, Socket, generic_family};

/// Endpoints of a service.
const ENDPOINTS: u32 = 10;
/// From the start of one change to that of the next.
const PACE: Duration = Duration::from_millis(10);
/// Changes that are measured.
const CHANGES: u32 = 1_000;
/// A service of each so many is changed, in turn.
const STRIDE: u32 = 7;
/// Between two looks at the kernel.
const LOOK: Duration = Duration::from_micros(100);
/// How long it is idle while it is watched.
const IDLE: Duration = Duration::from_secs(10);
const SYNC_MAX: Duration = Duration::from_secs(300);
const CHANGE_MAX: Duration = Duration::from_secs(10);

/// A process that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Running {
    fn start(program: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        if std::env::var_os("VERBOSE").is_none() {
            command.stderr(Stdio::null());
        }
        Running(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")))
    }

    /// Processor time it has used so far: user and system.
    fn processor(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let after = text.rsplit_once(')').unwrap().1;
        // utime and stime are the fields 14 and 15 (proc(5)), counted in hundredths of a second.
        let ticks = |n: usize| after.split_whitespace().nth(n - 3).unwrap().parse::<u64>().unwrap();
        Duration::from_millis(10 * (ticks(14) + ticks(15)))
    }

    /// Resident memory in MiB, now and at most.
    fn memory(&self) -> (u64, u64) {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

/// One connection to the API server.
struct Api(BufReader<TcpStream>);

impl Api {
    fn connect(address: SocketAddr) -> Api {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Api(BufReader::new(stream))
    }

    /// Sends a request and reads the answer.
    fn ask(&mut self, method: &str, path: &str, kind: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: api\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut first, mut length) = (String::new(), 0);
        self.0.read_line(&mut first).unwrap();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(text) = line.strip_prefix("content-length:") {
                length = text.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).unwrap();
        let good = first.split_whitespace().nth(1).is_some_and(|code| code.starts_with('2'));
        assert!(good, "{method} {path}: {first}{}", String::from_utf8_lossy(&answer));
    }

    fn post(&mut self, path: &str, body: &str) {
        self.ask("POST", path, "application/json", body);
    }
}

fn vip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + n + 10)
}

fn pod(n: u32, endpoint: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + n * 16 + endpoint + 1)
}

/// Endpoints of a service, as JSON.
fn endpoints(n: u32, count: u32) -> String {
    let one = |e| {
        let (ip, conditions) = (pod(n, e), r#"{"ready":true,"serving":true,"terminating":false}"#);
        format!(
            r#"{{"addresses":["{ip}"],"conditions":{conditions},"nodeName":"n2","targetRef":{{"kind":"Pod","name":"svc-{n}-{e}","namespace":"default"}}}}"#
        )
    };
    format!("[{}]", (0..count).map(one).collect::<Vec<_>>().join(","))
}

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn fill(api: &mut Api, services: u32) {
    for (name, address, cidr) in [("n1", "192.168.1.1", "12.0.1.0/24"), ("n2", "192.168.1.2", "12.0.2.0/24")] {
        api.post(
            "/api/v1/nodes",
            &format!(
                r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"podCIDR":"{cidr}","podCIDRs":["{cidr}"]}},"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}}]}}}}"#
            ),
        );
    }
    for n in 0..services {
        let ip = vip(n);
        api.post(
            "/api/v1/namespaces/default/services",
            &format!(
                r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"svc-{n}"}},"spec":{{"clusterIP":"{ip}","clusterIPs":["{ip}"],"ports":[{{"name":"http","port":80,"targetPort":8080,"protocol":"TCP"}}]}}}}"#
            ),
        );
        let list = endpoints(n, ENDPOINTS);
        api.post(
            SLICES,
            &format!(
                r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"svc-{n}-a","labels":{{"kubernetes.io/service-name":"svc-{n}"}}}},"addressType":"IPv4","ports":[{{"name":"http","port":8080,"protocol":"TCP"}}],"endpoints":{list}}}"#
            ),
        );
    }
}

/// What the kernel has, asked as cheaply as can be.
struct Ipvs {
    socket: Socket,
    family: u16,
}

impl Ipvs {
    fn open() -> Ipvs {
        let mut socket = Socket::open(Netlink::Generic).unwrap();
        let family = generic_family(&mut socket, "IPVS").unwrap().expect("IPVS: run this in a guest");
        Ipvs { socket, family }
    }

    /// Real servers of one service; 0 where there is no such service.
    fn reals(&mut self, n: u32) -> usize {
        // `IPVS_CMD_GET_DEST` with the service's family, protocol, address and port (`include/uapi/linux/ip_vs.h`).
        let mut message = Message::generic(self.family, 0, 8, 1);
        message.nested(1, |m| {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&vip(n).octets());
            m.u16(1, 2).u16(2, 6).bytes(3, &address).be16(4, 80);
        });
        let mut count = 0;
        match self.socket.dump(&message, &mut count, |count| *count = 0, |count, _, _| *count += 1) {
            Ok(()) => count,
            Err(_) => 0,
        }
    }
}

/// Per cent of one processor.
fn load(used: Duration, of: Duration) -> String {
    format!("{:.1} %", 100.0 * used.as_secs_f64() / of.as_secs_f64())
}

/// Times in order.
struct Sorted(Vec<Duration>);

impl Sorted {
    fn new(mut all: Vec<Duration>) -> Sorted {
        all.sort();
        Sorted(all)
    }

    /// Percentiles 50, 75, 90, 99 and 100.
    fn text(&self) -> String {
        let one = |p: usize| format!("{:.1}", self.0[(self.0.len() - 1) * p / 100].as_secs_f64() * 1000.0);
        [50, 75, 90, 99, 100].map(one).join(" / ") + " ms"
    }
}

fn measure(program: &str, services: u32) {
    let mut server = Running::start(program, &["apiserver", "--listen", "127.0.0.1:6443", "--history", "1000"]);
    // It says where it serves when it does.
    let mut said = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let mut api = Api::connect("127.0.0.1:6443".parse().unwrap());
    let begin = Instant::now();
    fill(&mut api, services);
    eprintln!("{services} services: the API server has them after {:.1} s", begin.elapsed().as_secs_f64());
    let begin = Instant::now();
    let daemon = Running::start(
        program,
        &[
            "node",
            "--master=http://127.0.0.1:6443",
            "--hostname-override=n1",
            "--run-router",
            "--run-service-proxy",
            "--run-firewall=false",
            "--enable-overlay=false",
            "--enable-cni=false",
            "--enable-pod-egress=false",
            "--advertise-cluster-ip",
            "--cluster-asn=65001",
            "--service-cluster-ip-range=10.96.0.0/12",
        ],
    );
    loop {
        std::thread::sleep(Duration::from_millis(250));
        let status = Command::new(program).arg("status").output().unwrap();
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        if text.lines().next().is_some_and(|line| line.ends_with("in sync")) {
            break;
        }
        assert!(begin.elapsed() < SYNC_MAX, "not in sync: {text}");
    }
    let synced = begin.elapsed();
    let worked = daemon.processor();
    let mut kernel = Ipvs::open();
    for n in [0, services / 2, services - 1] {
        assert_eq!(kernel.reals(n), ENDPOINTS as usize, "service {n}");
    }
    let (before, at) = (daemon.processor(), Instant::now());
    std::thread::sleep(IDLE);
    let idle = load(daemon.processor() - before, at.elapsed());
    let (rss, peak) = daemon.memory();
    // What a look at the kernel takes when nothing happens is what cannot be told from latency.
    let looks = (0..CHANGES).map(|change| {
        let start = Instant::now();
        std::thread::sleep(LOOK);
        kernel.reals(change % services);
        start.elapsed()
    });
    let looks = Sorted::new(looks.collect());
    let (before, at) = (daemon.processor(), Instant::now());
    let mut latencies = vec![];
    for change in 0..CHANGES.min(services) {
        let n = change * STRIDE % services;
        let path = format!("{SLICES}/svc-{n}-a");
        let more = format!(r#"{{"endpoints":{}}}"#, endpoints(n, ENDPOINTS + 1));
        let start = Instant::now();
        api.ask("PATCH", &path, "application/merge-patch+json", &more);
        // The event goes out now; what comes before is the API server's work.
        let event = Instant::now();
        while kernel.reals(n) != ENDPOINTS as usize + 1 {
            assert!(event.elapsed() < CHANGE_MAX, "the change of service {n} does not arrive");
            std::thread::sleep(LOOK);
        }
        latencies.push(event.elapsed());
        std::thread::sleep(PACE.saturating_sub(start.elapsed()));
    }
    let took = at.elapsed();
    let busy = load(daemon.processor() - before, took);
    let rate = latencies.len() as f64 / took.as_secs_f64();
    let latencies = Sorted::new(latencies);
    println!(
        "| {services} | {:.1} s ({:.1} s of processor) | {rss} MiB ({peak} MiB) | {idle} | {busy} at {rate:.0}/s | {} | {} |",
        synced.as_secs_f64(),
        worked.as_secs_f64(),
        latencies.text(),
        looks.text(),
    );
}

fn main() {
    // Cargo says `--bench`; nothing here is chosen by name.
    let program = std::env::var("FAIRWAY").expect("FAIRWAY=the program");
    let sizes = std::env::var("SIZES").unwrap_or_else(|_| "1000,5000,10000".into());
    let mut setup = Setup::new().unwrap();
    setup.set_up("lo", true).unwrap();
    setup.add("eth1", LinkKind::Dummy).unwrap();
    setup.set_up("eth1", true).unwrap();
    setup.add_address("eth1", "192.168.1.1/24".parse().unwrap()).unwrap();
    println!(
        "| services, 10 endpoints each | start to in sync | memory (most) | idle | under change | change to kernel, p50 / p75 / p90 / p99 / longest | the same of a look without change |\n\
         |---|---|---|---|---|---|---|"
    );
    for size in sizes.split(',').map(|size| size.trim().parse().unwrap()) {
        measure(&program, size);
        let cleaned = Command::new("ipvsadm").arg("-C").status().unwrap();
        assert!(cleaned.success());
    }
}
