//! mconnect as a program: started in the namespace of a host or a pod, its JSON report read back.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fairway_mconnect::Report;
use fairway_scenario::{LoadResult, MconnectRequest, Origin, StageError};
use ipnet::IpNet;

use crate::lab::Lab;
use crate::process::Namespace;

/// How long the servers' words about their last clients may take to reach us.
const WORDS: Duration = Duration::from_millis(500);
/// How long mconnect may take beyond its own deadline.
const MARGIN: Duration = Duration::from_secs(30);

/// A failure of the system as a stage says it.
pub(crate) fn refused(error: impl std::fmt::Display) -> StageError {
    StageError::Refused(error.to_string())
}

impl Lab {
    /// The namespace in which something starts.
    pub(crate) fn origin(&self, origin: &Origin) -> Result<Arc<Namespace>, StageError> {
        match origin {
            Origin::Host(name) => match self.hosts.get(name) {
                Some(host) => Ok(Arc::clone(&host.space)),
                None if self.is_in_topology(name) => Err(StageError::Refused(format!("{name} has no power"))),
                None => Err(StageError::NotFound(format!("host {name}"))),
            },
            Origin::Pod { namespace, name, on, index } => {
                let fits = |(ns, pod, node): &(String, String, String)| {
                    ns == namespace && pod.starts_with(name.as_str()) && on.as_ref().is_none_or(|on| on == node)
                };
                let pods: Vec<_> = self.pods.list().into_iter().filter(fits).collect();
                let found = pods.get(*index).and_then(|(ns, pod, _)| self.pods.get(ns, pod));
                let few = || StageError::NotFound(format!("{origin}: only {} pods match", pods.len()));
                found.map(|pod| Arc::clone(&pod.space)).ok_or_else(few)
            }
        }
    }

    pub(crate) fn is_in_topology(&self, name: &str) -> bool {
        self.topology.addresses(name).is_some()
    }

    /// Runs mconnect to its end; the cluster lives on meanwhile.
    pub(crate) fn run_mconnect(&mut self, request: &MconnectRequest) -> Result<LoadResult, StageError> {
        let space = self.origin(&request.from)?;
        let to = self.cluster.resolve(&request.address)?;
        prepare_sources(&space, request.srccidr)?;
        let mut command = Command::new(&self.options.program);
        command.args(["mconnect", "-output", "json", "-address", &to.to_string()]);
        command.args(["-nconn", &request.nconn.to_string(), "-maxconcurrent", &request.max_concurrent.to_string()]);
        if let Some(timeout) = request.timeout {
            command.args(["-timeout", &format!("{}ms", timeout.as_millis())]);
        }
        if let Some(block) = request.srccidr {
            command.args(["-srccidr", &block.to_string()]);
        }
        for (flag, on) in [("-udp", request.udp), ("-keep", request.keep)] {
            if on {
                command.arg(flag);
            }
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let before = self.seen();
        let mut process = space.spawn(&mut command).map_err(refused)?;
        let stdout = reader(process.child().stdout.take());
        let stderr = reader(process.child().stderr.take());
        let own = request.timeout.unwrap_or(if request.keep {
            Duration::from_secs(3600)
        } else {
            Duration::from_secs(2) + Duration::from_millis(request.nconn.into())
        });
        let limit = self.now() + own + MARGIN;
        let mut status = None;
        self.live_until(Some(limit), |_| match process.child().try_wait() {
            Ok(Some(ended)) => {
                status = Some(Ok(ended));
                true
            }
            Ok(None) => false,
            Err(error) => {
                status = Some(Err(error));
                true
            }
        });
        match status {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(refused(error)),
            None => return Err(StageError::Refused(format!("mconnect did not end within {:?}", own + MARGIN))),
        }
        let (text, complaint) = (collect(&stdout), collect(&stderr));
        // mconnect exits with 1 when connections failed; that is for the scenario to judge.
        let last = text.lines().last().unwrap_or_default();
        let report = Report::from_json(last)
            .map_err(|error| StageError::Refused(format!("mconnect printed no report ({error}): {text}{complaint}")))?;
        let answers: u64 = report.hosts.values().sum();
        let sources_seen = self.new_sources(&before, answers);
        let failures = complaint.lines().take(5).map(|line| (self.now(), line.to_string())).collect();
        Ok(LoadResult { by_node: self.by_node(&report), report, sources_seen, failures })
    }

    /// Answers by the node on which the server ran.
    pub(crate) fn by_node(&self, report: &Report) -> BTreeMap<String, u64> {
        let mut by_node = BTreeMap::new();
        for (pod, answers) in &report.hosts {
            let node = self.pods.node_of(pod).unwrap_or(pod);
            *by_node.entry(node.to_string()).or_default() += answers;
        }
        by_node
    }

    /// Clients by address, as all servers ever saw them.
    pub(crate) fn seen(&self) -> BTreeMap<IpAddr, u64> {
        self.pods.seen.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Clients that the servers saw since `before`; waits a moment until they told of as many as there were answers.
    pub(crate) fn new_sources(&mut self, before: &BTreeMap<IpAddr, u64>, answers: u64) -> BTreeMap<IpAddr, u64> {
        let limit = self.now() + WORDS;
        let mut new = BTreeMap::new();
        self.live_until(Some(limit), |lab| {
            new = difference(before, &lab.seen());
            new.values().sum::<u64>() >= answers
        });
        new
    }
}

fn difference(before: &BTreeMap<IpAddr, u64>, after: &BTreeMap<IpAddr, u64>) -> BTreeMap<IpAddr, u64> {
    let more = |(ip, count): (&IpAddr, &u64)| {
        let more = count - before.get(ip).copied().unwrap_or_default().min(*count);
        (more > 0).then_some((*ip, more))
    };
    after.iter().filter_map(more).collect()
}

/// Makes the addresses of a block usable as sources in a namespace.
pub(crate) fn prepare_sources(space: &Namespace, block: Option<IpNet>) -> Result<(), StageError> {
    let Some(block) = block else { return Ok(()) };
    let (file, family) = match block {
        IpNet::V4(_) => ("/proc/sys/net/ipv4/ip_nonlocal_bind", "-4"),
        IpNet::V6(_) => ("/proc/sys/net/ipv6/ip_nonlocal_bind", "-6"),
    };
    space.within(|| std::fs::write(file, "1")).map_err(refused)?;
    let block = block.trunc().to_string();
    space.text("ip", &[family, "route", "replace", "local", &block, "dev", "lo"]).map_err(refused)?;
    Ok(())
}

/// Reads a pipe to its end on a thread, so that its writer never waits for us.
fn reader(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (text, read) = mpsc::channel();
    std::thread::spawn(move || {
        let mut all = vec![];
        if let Some(mut pipe) = pipe {
            // What came before an error is all there is.
            let _cut = pipe.read_to_end(&mut all);
        }
        // Whoever asked may have given up.
        let _gone = text.send(String::from_utf8_lossy(&all).into_owned());
    });
    read
}

/// What a pipe carried, once its process ended.
fn collect(pipe: &mpsc::Receiver<String>) -> String {
    pipe.recv_timeout(Duration::from_secs(5)).unwrap_or_default()
}
