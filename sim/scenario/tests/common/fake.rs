//! A small stage with a script: what is true from when on. It can say no.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fairway_mconnect::Report;
use fairway_scenario::{
    Answer, BfdSession, CniConfig, EndpointState, Fault, LoadRequest, LoadResult, MconnectRequest, Neighbor,
    NoticeLine, RealServer, RibPath, Route, Software, Stage, StageError, Target, TraceRequest, TraceResult,
    VirtualServer,
};

pub struct Fake {
    pub now: Duration,
    /// When BGP, routes and endpoints are there.
    pub ready: Duration,
    /// Answers per pod of each mconnect.
    pub answers: BTreeMap<String, u64>,
    pub failed_connects: u64,
    pub sources: BTreeMap<IpAddr, u64>,
    pub standing: Vec<NoticeLine>,
    /// Time does not pass.
    pub stuck: bool,
    /// Refuses every fault.
    pub refuse: bool,
    /// Everything it was asked to do, in order.
    pub log: Vec<String>,
    /// Times `advance` was called.
    pub advances: usize,
    /// Times `neighbors` was asked.
    pub asked: usize,
    pub loads: BTreeMap<String, Duration>,
}

impl Fake {
    pub fn new() -> Self {
        let pod = |n: u64| (format!("mconnect-deployment-{n}"), 100);
        Fake {
            now: Duration::ZERO,
            ready: Duration::from_secs(3),
            answers: (1..5).map(pod).collect(),
            failed_connects: 0,
            sources: BTreeMap::from([([192, 168, 1, 201].into(), 400)]),
            standing: Vec::new(),
            stuck: false,
            refuse: false,
            log: Vec::new(),
            advances: 0,
            asked: 0,
            loads: BTreeMap::new(),
        }
    }

    fn is_ready(&self) -> bool {
        self.now >= self.ready
    }

    fn result(&self) -> LoadResult {
        let report = Report {
            hosts: self.answers.clone(),
            connects: self.answers.values().sum::<u64>() + self.failed_connects,
            failed_connects: self.failed_connects,
            ..Report::default()
        };
        // Pod n runs on node n.
        let by_node = self.answers.iter().map(|(pod, n)| (pod.replace("mconnect-deployment-", "vm-00"), *n)).collect();
        let failure = (self.now, "no answer to SYN".to_owned());
        LoadResult { report, by_node, sources_seen: self.sources.clone(), failures: vec![failure] }
    }
}

impl Stage for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn features(&self) -> Vec<String> {
        vec!["ipvs".to_owned()]
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn advance(&mut self, limit: Duration) -> Duration {
        self.advances += 1;
        if !self.stuck {
            self.now = limit.min(self.now + Duration::from_millis(700));
        }
        self.now
    }

    fn apply(&mut self, file: &str, yaml: &str) -> Result<Vec<String>, StageError> {
        self.log.push(format!("apply {file}"));
        if yaml.is_empty() {
            return Err(StageError::Refused(format!("{file}: nothing to read")));
        }
        Ok(vec!["service/mconnect created".to_owned()])
    }

    fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Result<(), StageError> {
        self.log.push(format!("delete {kind} {namespace}/{name}"));
        Ok(())
    }

    fn scale(&mut self, namespace: &str, deployment: &str, replicas: u32) -> Result<(), StageError> {
        self.log.push(format!("scale {namespace}/{deployment} {replicas}"));
        Ok(())
    }

    fn patch(&mut self, kind: &str, namespace: &str, name: &str, merge: &serde_json::Value) -> Result<(), StageError> {
        self.log.push(format!("patch {kind} {namespace}/{name} {merge}"));
        Ok(())
    }

    fn fault(&mut self, fault: &Fault) -> Result<String, StageError> {
        if self.refuse {
            return Err(StageError::Unsupported(fault.to_string()));
        }
        self.log.push(format!("fault {fault}"));
        Ok(fault.to_string())
    }

    fn neighbors(&mut self, host: &str) -> Result<Vec<Neighbor>, StageError> {
        self.asked += 1;
        if host == "vm-003" && !self.is_ready() {
            return Err(StageError::Refused("no agent runs on vm-003".to_owned()));
        }
        let up = self.is_ready();
        let neighbor = |n: u8| Neighbor {
            address: [192, 168, 1, n].into(),
            asn: 65001,
            state: if up || n == 1 { "Establ" } else { "Active" }.to_owned(),
            since: (up || n == 1).then_some(Duration::from_secs(4)),
            received: 2,
            accepted: 2,
            reason: (n == 2).then(|| "peer sent Cease".to_owned()),
        };
        Ok((1..5).rev().map(neighbor).collect())
    }

    fn bfd(&mut self, _: &str) -> Result<Vec<BfdSession>, StageError> {
        let session = |n: u8, state: &str| BfdSession { address: [192, 168, 1, n].into(), state: state.to_owned() };
        Ok(vec![session(1, "Up"), session(2, "Up"), session(3, "Down")])
    }

    fn cni(&mut self, host: &str) -> Result<Option<CniConfig>, StageError> {
        let config = CniConfig { ranges: vec!["11.0.1.0/24".parse().unwrap()], mtu: Some(1500) };
        Ok((host == "vm-001").then_some(config))
    }

    fn rib(&mut self, _: &str, ipv6: bool) -> Result<Vec<RibPath>, StageError> {
        let path = |n: u8| RibPath {
            prefix: "10.0.0.2/32".parse().unwrap(),
            next_hop: [192, 168, 1, n].into(),
            as_path: vec![65001],
            best: n == 2,
            age: Duration::from_secs(2),
            attrs: "[{Origin: ?}]".to_owned(),
        };
        Ok(if self.is_ready() && !ipv6 { (1..3).rev().map(path).collect() } else { Vec::new() })
    }

    fn ask(&mut self, host: &str, software: Software, run: &str) -> Result<Answer, StageError> {
        self.log.push(format!("ask {host} {run}"));
        match software {
            Software::Bird if !self.is_ready() => Err(StageError::Refused("birdc: no such socket".to_owned())),
            Software::Bird => Ok(Answer::Printed("name1 BGP up\nname2 BGP Passive\n".to_owned())),
            other => Ok(Answer::NotAsked(format!("{host} runs bird, not {}", other.as_str()))),
        }
    }

    fn routes(&mut self, _: &str, _: bool) -> Result<Vec<Route>, StageError> {
        let connected = Route {
            prefix: "192.168.1.0/24".parse().unwrap(),
            text: "192.168.1.0/24 dev eth1 scope link".to_owned(),
            next_hops: Vec::new(),
            protocol: 2,
        };
        let learned = Route {
            prefix: "10.0.0.2/32".parse().unwrap(),
            text: "10.0.0.2 proto bgp\n\tnexthop via 192.168.1.1 dev eth1\n\tnexthop via 192.168.1.2 dev eth1"
                .to_owned(),
            next_hops: vec![[192, 168, 1, 1].into(), [192, 168, 1, 2].into()],
            protocol: 186,
        };
        Ok(if self.is_ready() { vec![connected, learned] } else { vec![connected] })
    }

    fn virtual_servers(&mut self, _: &str) -> Result<Vec<VirtualServer>, StageError> {
        let real = |weight| RealServer { address: "11.0.1.2:5001".parse().unwrap(), weight, active: 0, inactive: 0 };
        let server = VirtualServer {
            address: "10.0.0.2:5001".parse().unwrap(),
            protocol: "TCP".to_owned(),
            scheduler: "rr".to_owned(),
            persistent: false,
            real_servers: vec![real(1), real(0)],
        };
        Ok(if self.is_ready() { vec![server] } else { Vec::new() })
    }

    fn show_virtual_servers(&mut self, _: &str) -> Result<String, StageError> {
        Ok("IP Virtual Server\n".to_owned())
    }

    fn endpoints(&mut self, namespace: &str, service: &str) -> Result<Vec<EndpointState>, StageError> {
        if service != "mconnect" {
            return Err(StageError::NotFound(format!("service {namespace}/{service}")));
        }
        let endpoint = |ready| EndpointState {
            pod: "mconnect-deployment-1".to_owned(),
            node: "vm-001".to_owned(),
            address: [11, 0, 1, 2].into(),
            ready,
        };
        Ok(vec![endpoint(self.is_ready()), endpoint(false)])
    }

    fn notices(&mut self) -> Vec<NoticeLine> {
        self.standing.clone()
    }

    fn in_sync(&mut self, _: &str) -> Result<bool, StageError> {
        Ok(self.is_ready())
    }

    fn resolve(&mut self, target: &Target) -> Result<SocketAddr, StageError> {
        match target {
            Target::Socket(address) => Ok(*address),
            Target::Service { name, port, .. } if name == "mconnect" => Ok(([10, 0, 0, 2], *port).into()),
            Target::Service { name, .. } => Err(StageError::NotFound(format!("service {name}"))),
            Target::Pod { .. } => Err(StageError::Unsupported("pods have no addresses here".to_owned())),
        }
    }

    fn mconnect(&mut self, request: &MconnectRequest) -> Result<LoadResult, StageError> {
        self.log.push(format!("mconnect {} {}", request.from, request.address));
        self.now += Duration::from_millis(250);
        Ok(self.result())
    }

    fn load_start(&mut self, request: &LoadRequest) -> Result<(), StageError> {
        self.loads.insert(request.name.clone(), self.now);
        Ok(())
    }

    fn load_take(&mut self, name: &str) -> Result<LoadResult, StageError> {
        let now = self.now;
        let since = self.loads.get_mut(name).ok_or_else(|| StageError::NotFound(name.to_owned()))?;
        let seconds = (now - *since).as_secs();
        *since = now;
        // One answer per second, so that a test sees whether the time passed between the two takes.
        let mut result = self.result();
        result.report.hosts = BTreeMap::from([("mconnect-deployment-1".to_owned(), seconds)]);
        Ok(result)
    }

    fn load_stop(&mut self, name: &str) -> Result<LoadResult, StageError> {
        self.loads.remove(name).ok_or_else(|| StageError::NotFound(name.to_owned()))?;
        Ok(self.result())
    }

    fn trace(&mut self, _: &TraceRequest) -> Result<TraceResult, StageError> {
        let through = ["vm-221", "vm-201", "vm-001"].map(str::to_owned).to_vec();
        Ok(TraceResult { text: "vm-001: dropped by rule 3\n".to_owned(), delivered: false, through })
    }

    fn trace_hash(&self) -> Option<u64> {
        Some(0x00c0_ffee)
    }
}
