//! The loop around the agent.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc as channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use fairway_agent::{Agent, HealthCheck, Input, Kernel, Output, Time, bfd, publish, serve};
use fairway_backend_admin::client::{Bfd, Status, Watch};
use fairway_backend_admin::{EventLog, Job, Source};
use fairway_backend_bfd as udp;
use fairway_backend_bgp::Transport;
use fairway_backend_route::Monitor;
use fairway_bgp as bgp;
use fairway_desired::KernelEvent;
use fairway_objects::{NodeConfig, Notice, NoticeChange, Subject};
use fairway_record::Taped;
use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{mpsc, oneshot, watch};

use crate::ask::Ask;
use crate::kernel::Watched;
use crate::ports::Ports;
use crate::record::Recording;
use crate::status::{bfd_session, status};
use crate::timings::Timings;

/// Questions of the admin port that wait.
const JOBS: usize = 16;
/// Inputs that wait for the agent. Whoever has more waits with it.
const QUEUE: usize = 1024;
/// Requests to the kernel under way: one per plane is all an agent asks for.
const REQUESTS: usize = 8;
/// BFD packets that are handed in at once before time goes on.
const PACKETS: usize = 1024;
/// How long the last words of BGP sessions may take to leave.
const FAREWELL: Duration = Duration::from_millis(500);

/// Most datagrams of the kernel's that make one input.
const DATAGRAMS: usize = 256;
/// Inputs of the kernel's that wait for the agent. When there are more, the kernel's own queue fills up, and in the end
/// overflows; then everything is read again.
const EVENTS: usize = 16;
/// How long a kernel that cannot be heard is left alone.
const DEAF: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A command, and when it was handed over.
type Sent = (Instant, Command);

/// A look at an agent.
pub type Question = Box<dyn FnOnce(&Agent, Time) + Send>;
/// Says how it stands with the watches at the API server. It must not wait.
pub type Look = Box<dyn Fn() -> Vec<Watch> + Send>;
/// Carries a request to the API server. It must not wait; the answer is an [`Input::Api`].
pub type Write = Box<dyn FnMut(publish::Request) + Send>;
/// Opens a kernel, in its namespace. An error is the sentence that its user reads.
pub type Open<K> = Box<dyn FnOnce(&NodeConfig) -> Result<K, String> + Send>;

/// What a node is asked.
pub enum Command {
    /// Something happened.
    Input(Input),
    /// Look at the agent.
    Ask(Question),
    /// From now on status and metrics show what this says of the watches at the API server.
    Watches(Look),
    /// From now on this carries requests to the API server; those that there are wait for it.
    Writes(Write),
    /// End in order: sessions are closed with Cease, the kernel keeps what it has.
    Shutdown,
    /// End at once, as SIGKILL would: nobody is told.
    Kill,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Command::Input(_) => "Input",
            Command::Ask(_) => "Ask",
            Command::Watches(_) => "Watches",
            Command::Writes(_) => "Writes",
            Command::Shutdown => "Shutdown",
            Command::Kill => "Kill",
        })
    }
}

/// How a node came to its end.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It cannot work here: its namespace, its kernel, or its BGP port.
    #[error("{0}")]
    Failed(String),
    /// It is gone already.
    #[error("the agent does not run")]
    Gone,
}

/// What a node starts with.
pub struct Start<K> {
    /// Its configuration.
    pub config: NodeConfig,
    /// All its random choices are drawn from this.
    pub seed: u64,
    /// The zero of its clock.
    pub epoch: Instant,
    /// Called first in each of its threads: enters its network namespace.
    pub enter: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
    /// Opens its kernel.
    pub open: Open<K>,
    /// Told of each notice that begins or ceases to stand.
    pub notices: Box<dyn FnMut(NoticeChange) + Send>,
    /// Told of what happens in BGP.
    pub events: Box<dyn FnMut(&bgp::Event) + Send>,
}

impl<K> fmt::Debug for Start<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start").field("config", &self.config).field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// One running node. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    commands: mpsc::Sender<Sent>,
    thread: Option<JoinHandle<Result<(), Ended>>>,
}

impl Node {
    /// Starts a node and returns when its kernel is open and the agent runs.
    ///
    /// # Errors
    /// [`Ended::Failed`] with one sentence, before anything in the kernel was touched.
    pub fn start<K: Kernel + Watched + Send + 'static>(start: Start<K>) -> Result<Node, Ended> {
        Node::start_recorded(start, None)
    }

    /// [`Node::start`], with a recording of all that its agent is told.
    ///
    /// # Errors
    /// As there.
    pub fn start_recorded<K: Kernel + Watched + Send + 'static>(
        start: Start<K>,
        recording: Option<Recording>,
    ) -> Result<Node, Ended> {
        let (commands, inbox) = mpsc::channel(QUEUE);
        let (ready, started) = channel::sync_channel(1);
        let name = start.config.node_name.to_string();
        let thread = std::thread::Builder::new()
            .name(format!("agent {name}"))
            .spawn(move || run(start, recording, inbox, &ready))
            .map_err(|error| Ended::Failed(format!("no thread for the agent: {error}")))?;
        match started.recv() {
            Ok(()) => Ok(Node { commands, thread: Some(thread) }),
            // The thread ended before it was ready: it has the reason.
            Err(_) => Err(thread.join().map_or(Ended::Gone, |result| result.err().unwrap_or(Ended::Gone))),
        }
    }

    /// Hands over a command; waits while too many wait already.
    ///
    /// # Errors
    /// [`Ended::Gone`]
    pub fn send(&self, command: Command) -> Result<(), Ended> {
        self.commands.blocking_send((Instant::now(), command)).map_err(|_| Ended::Gone)
    }

    /// Hands over inputs from elsewhere, for as long as the node runs; each call waits while too many wait already.
    pub fn inputs(&self) -> impl Fn(Input) -> Result<(), Ended> + Send + 'static {
        let commands = self.commands.clone();
        move |input| commands.blocking_send((Instant::now(), Command::Input(input))).map_err(|_| Ended::Gone)
    }

    /// Looks at the agent.
    ///
    /// # Errors
    /// [`Ended::Gone`]
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Agent, Time) -> T + Send + 'static,
    ) -> Result<T, Ended> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Ask(Box::new(move |agent, now| {
            // Whoever asked may have gone away.
            let _gone = answer.send(question(agent, now));
        })))?;
        answered.blocking_recv().map_err(|_| Ended::Gone)
    }

    /// Whether it came to its end by itself; [`end`](Self::end) says why.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it and waits until it is over.
    ///
    /// # Errors
    /// Why it had ended before, if it had.
    pub fn end(mut self, command: Command) -> Result<(), Ended> {
        let told = self.send(command);
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(result)) => result.and(told),
            Some(Err(_)) | None => Err(Ended::Gone),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _gone = self.send(Command::Kill);
            let _reason = thread.join();
        }
    }
}

fn run<K: Kernel + Watched + Send + 'static>(
    start: Start<K>,
    recording: Option<Recording>,
    commands: mpsc::Receiver<Sent>,
    ready: &channel::SyncSender<()>,
) -> Result<(), Ended> {
    let failed = |error: &dyn fmt::Display| Ended::Failed(error.to_string());
    (start.enter)().map_err(|error| failed(&format!("entering the network namespace: {error}")))?;
    let mut kernel = (start.open)(&start.config).map_err(|error| failed(&error))?;
    let mut monitor = kernel.monitor().map_err(|error| failed(&error))?;
    let (said, kernel_events) = mpsc::channel(EVENTS);
    // The first events are the state of everything; if they cannot be had yet they come later.
    if let Some((events, _)) = monitor.as_mut().and_then(|monitor| monitor.read(DATAGRAMS).ok()) {
        let _room = said.try_send(events);
    }
    let (until, stop) = io::pipe().map_err(|error| failed(&error))?;
    let ear = monitor
        .map(|monitor| {
            let name = format!("monitor {}", start.config.node_name);
            std::thread::Builder::new().name(name).spawn(move || listen(monitor, &until, &said))
        })
        .transpose()
        .map_err(|error| failed(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    let (requests, waiting) = channel::sync_channel::<Output>(REQUESTS);
    let (answers, answered) = mpsc::channel(REQUESTS);
    let name = start.config.node_name.clone();
    let enter: Arc<dyn Fn() -> io::Result<()> + Send + Sync> = start.enter.into();
    let (jobs, asked) = mpsc::channel::<Job>(JOBS);
    let (troubles, trouble) = mpsc::unbounded_channel();
    let (looks, looked) = mpsc::channel::<Question>(JOBS);
    let (checks, checked) = watch::channel(vec![]);
    let timings = Timings::new().map_err(|error| failed(&error))?;
    let ask = Ask { jobs, looks };
    let ports = Ports::start(&start.config, Arc::clone(&enter), ask, timings.clone(), checked, troubles);
    let ports = ports.map_err(Ended::Failed)?;
    let requested = timings.clone();
    // The kernel's thread ends when nobody asks any more, or nobody listens.
    let worker = std::thread::Builder::new()
        .name(format!("kernel {name}"))
        .spawn(move || {
            if enter().is_err() {
                return;
            }
            while let Ok(request) = waiting.recv() {
                let plane = match &request {
                    Output::Observe(plane) => Some(*plane),
                    Output::Apply(batch) => Some(batch.plane()),
                    _ => None,
                };
                let begin = Instant::now();
                let Some(answer) = serve(request, &mut kernel) else { continue };
                if let Some(plane) = plane {
                    requested.request(plane, begin.elapsed());
                }
                if answers.blocking_send(answer).is_err() {
                    return;
                }
            }
        })
        .map_err(|error| failed(&error))?;
    let (agent, recorder) = match recording.map(Recording::start).transpose().map_err(|error| failed(&error))? {
        Some((sink, recorder)) => {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let started = since.saturating_sub(start.epoch.elapsed());
            let started_ms = u64::try_from(started.as_millis()).unwrap_or(u64::MAX);
            let version = env!("CARGO_PKG_VERSION");
            (Taped::recorded(start.config, start.seed, version, started_ms, sink), Some(recorder))
        }
        None => (Taped::new(start.config, start.seed), None),
    };
    let result = runtime.block_on(async {
        let (bgp, bgp_events) = mpsc::channel(QUEUE);
        let transport = Transport::new(bgp);
        let node = Loop {
            agent,
            epoch: start.epoch,
            transport,
            bfd: udp::Transport::new(),
            requests,
            notices: start.notices,
            tell: start.events,
            events: EventLog::new(),
            passwords: BTreeMap::new(),
            sockets: BTreeMap::new(),
            ending: None,
            failed: None,
            started: SystemTime::now(),
            watches: None,
            writes: None,
            unsent: vec![],
            timings,
            checks,
            checked: None,
            name,
        };
        node.go(commands, answered, bgp_events, kernel_events, Questions { asked, looked, trouble }, ready).await
    });
    drop(ports);
    // Dropping the runtime closes every connection. The kernel's thread has lost its queue by now.
    drop(runtime);
    let _over = worker.join();
    // The agent is gone, and with it the way into the recording.
    let _over = recorder.map(JoinHandle::join);
    drop(stop);
    let _over = ear.map(JoinHandle::join);
    result
}

/// Hears what the kernel says until the other end of the pipe is closed, or nobody listens.
fn listen(mut monitor: Monitor, until: &io::PipeReader, said: &mpsc::Sender<Vec<KernelEvent>>) {
    loop {
        let wait = match monitor.read(DATAGRAMS) {
            Ok((events, more)) => {
                if !events.is_empty() && said.blocking_send(events).is_err() {
                    return;
                }
                if more {
                    continue;
                }
                None
            }
            Err(_) => Some(DEAF),
        };
        let mut fds = [PollFd::new(&monitor, PollFlags::IN), PollFd::new(until, PollFlags::IN)];
        // A poll that fails is like one that ended early.
        let _count = poll(&mut fds, wait.as_ref());
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            return;
        }
    }
}

/// What comes from the admin port.
struct Questions {
    asked: mpsc::Receiver<Job>,
    looked: mpsc::Receiver<Question>,
    trouble: mpsc::UnboundedReceiver<NoticeChange>,
}

struct Loop {
    agent: Taped,
    epoch: Instant,
    transport: Transport,
    bfd: udp::Transport,
    requests: channel::SyncSender<Output>,
    notices: Box<dyn FnMut(NoticeChange) + Send>,
    tell: Box<dyn FnMut(&bgp::Event) + Send>,
    events: EventLog,
    /// Passwords that are not in effect.
    passwords: BTreeMap<IpAddr, Notice>,
    /// BFD's sockets that could not be opened, by what they are for.
    sockets: BTreeMap<String, Notice>,
    /// When an orderly end is over at the latest.
    ending: Option<Instant>,
    /// What an input from the admin port led to.
    failed: Option<Ended>,
    started: SystemTime,
    /// How it stands with the API server, if there is one.
    watches: Option<Look>,
    writes: Option<Write>,
    /// Requests to the API server from before somebody carries them.
    unsent: Vec<publish::Request>,
    timings: Timings,
    /// Where health checks of services are answered, and which version of that was told.
    checks: watch::Sender<Vec<HealthCheck>>,
    checked: Option<(bool, u64)>,
    name: Arc<str>,
}

impl Source for Loop {
    fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    fn speaker(&self) -> &bgp::Speaker {
        self.agent.speaker()
    }

    fn input(&mut self, input: bgp::Input) {
        if let Err(ended) = self.handle(Input::Bgp(input)) {
            self.failed = Some(ended);
        }
    }

    fn events(&self) -> &EventLog {
        &self.events
    }

    fn status(&self) -> Status {
        let watches = self.watches.as_ref().map(|look| look()).unwrap_or_default();
        status(&self.agent, self.name.to_string(), self.started, self.epoch, watches)
    }

    fn bfd(&self, peer: IpAddr) -> Option<Bfd> {
        self.agent.bfd().session(peer).map(|view| bfd_session(view, self.epoch))
    }

    fn kernel(&self, prefix: IpNet) -> String {
        self.agent.kernel_route(prefix)
    }
}

impl Loop {
    async fn go(
        mut self,
        mut commands: mpsc::Receiver<Sent>,
        mut answers: mpsc::Receiver<Input>,
        mut events: mpsc::Receiver<bgp::Input>,
        mut kernel: mpsc::Receiver<Vec<KernelEvent>>,
        mut admin: Questions,
        ready: &channel::SyncSender<()>,
    ) -> Result<(), Ended> {
        // The state of the links is known before anything is decided.
        while let Ok(events) = kernel.try_recv() {
            self.hear(events)?;
        }
        self.handle(Input::Tick)?;
        // Whoever started us may be gone; then the commands are closed as well.
        let _gone = ready.send(());
        loop {
            let deadline = self.agent.deadline().map(|at| self.epoch + at).into_iter().chain(self.ending).min();
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                command = commands.recv() => match command.map(|(at, command)| {
                    self.agent.arrived(at.saturating_duration_since(self.epoch));
                    command
                }) {
                    Some(Command::Input(input)) => input,
                    Some(Command::Ask(question)) => {
                        question(&self.agent, self.now());
                        continue;
                    }
                    Some(Command::Watches(look)) => {
                        self.watches = Some(look);
                        continue;
                    }
                    Some(Command::Writes(mut write)) => {
                        self.unsent.drain(..).for_each(&mut write);
                        self.writes = Some(write);
                        continue;
                    }
                    Some(Command::Shutdown) => {
                        self.ending = Some(Instant::now() + FAREWELL);
                        Input::Shutdown
                    }
                    Some(Command::Kill) | None => return Ok(()),
                },
                Some(answer) = answers.recv() => answer,
                Some(event) = events.recv() => Input::Bgp(event),
                Some(events) = kernel.recv() => {
                    self.hear(events)?;
                    continue;
                }
                packet = self.bfd.next() => Input::Bfd(packet),
                Some(job) = admin.asked.recv() => {
                    job(&mut self);
                    match self.failed.take() {
                        Some(ended) => return Err(ended),
                        None => continue,
                    }
                }
                Some(look) = admin.looked.recv() => {
                    look(&self.agent, self.now());
                    continue;
                }
                Some(change) = admin.trouble.recv() => {
                    (self.notices)(change);
                    continue;
                }
                () = sleep => {
                    if self.ending.is_some_and(|at| at <= Instant::now()) {
                        return Ok(());
                    }
                    self.catch_up()?;
                    Input::Tick
                }
            };
            self.handle(input)?;
        }
    }

    /// Tells the agent what the kernel said.
    fn hear(&mut self, events: Vec<KernelEvent>) -> Result<(), Ended> {
        for event in events {
            self.agent.handle(self.now(), Input::Kernel(event));
        }
        self.obey()
    }

    /// A password that is not possible concerns one neighbour: the others go on.
    fn password(&mut self, output: &bgp::Output, trouble: Option<String>) {
        let bgp::Output::Password { peer, .. } = output else { return };
        if let Some(old) = self.passwords.remove(peer) {
            (self.notices)(NoticeChange::Cleared(old));
        }
        if let Some(reason) = trouble {
            let subject = Subject::Kernel(format!("BGP peer {peer}"));
            let notice = Notice { subject, field: "password".into(), reason };
            self.passwords.insert(*peer, notice.clone());
            (self.notices)(NoticeChange::Raised(notice));
        }
    }

    /// Hands in the BFD packets that arrived while something else took its time. Nobody is silent whose packet waits.
    fn catch_up(&mut self) -> Result<(), Ended> {
        for _ in 0..PACKETS {
            let Some(packet) = self.bfd.waiting() else { break };
            self.handle(Input::Bfd(packet))?;
        }
        Ok(())
    }

    /// Does what BFD wants. A socket that cannot be opened concerns one neighbour, or one port: the rest goes on.
    fn bfd(&mut self, output: &bfd::Output) {
        let what = match output {
            bfd::Output::Listen { port } | bfd::Output::Unlisten { port } => format!("BFD port {port}"),
            bfd::Output::Open { peer, .. } | bfd::Output::Close { peer } => format!("BFD session with {peer}"),
            bfd::Output::Send { .. } | bfd::Output::Event(_) => {
                // Neither opens anything.
                let _never = self.bfd.handle(output);
                return;
            }
        };
        let trouble = self.bfd.handle(output).err();
        let notice = trouble.as_ref().map(|error| Notice {
            subject: Subject::Kernel(what.clone()),
            field: String::new(),
            reason: error.to_string(),
        });
        let before = match &notice {
            Some(notice) => self.sockets.insert(what, notice.clone()),
            None => self.sockets.remove(&what),
        };
        if before != notice {
            before.into_iter().for_each(|old| (self.notices)(NoticeChange::Cleared(old)));
            notice.into_iter().for_each(|new| (self.notices)(NoticeChange::Raised(new)));
        }
        if let Some(error) = trouble {
            self.agent.handle(self.now(), Input::Bfd(error.input()));
        }
    }

    /// Gives input to the agent and does what it then wants.
    fn handle(&mut self, input: Input) -> Result<(), Ended> {
        let now = self.now();
        self.agent.handle(now, input);
        self.obey()
    }

    /// Does what the agent wants.
    fn obey(&mut self) -> Result<(), Ended> {
        let begin = Instant::now();
        let before = self.agent.bgp_changes();
        self.carry_out()?;
        let after = self.agent.bgp_changes();
        if before != after {
            self.timings.bgp(begin.elapsed(), before.1 != after.1);
        }
        if let Some((version, checks)) = self.agent.health_checks(self.checked) {
            self.checked = Some(version);
            self.checks.send_replace(checks);
        }
        Ok(())
    }

    fn carry_out(&mut self) -> Result<(), Ended> {
        while let Some(output) = self.agent.poll() {
            match output {
                // The queue is as long as there are planes, so there is room; a thread that is gone answers nothing.
                request @ (Output::Observe(_) | Output::Apply(_)) => {
                    self.requests
                        .send(request)
                        .map_err(|_| Ended::Failed("the thread that writes to the kernel is gone".into()))?;
                }
                Output::Bgp(bgp::Output::Event(event)) => {
                    (self.tell)(&event);
                    self.events.push(event);
                }
                Output::Bgp(output) => match self.transport.handle(&output) {
                    Ok(()) => self.password(&output, None),
                    Err(fairway_backend_bgp::Error::Password(error)) => {
                        self.password(&output, Some(error.to_string()));
                    }
                    Err(error @ fairway_backend_bgp::Error::Listen(_)) => {
                        return Err(Ended::Failed(error.to_string()));
                    }
                },
                Output::Bfd(output) => self.bfd(&output),
                Output::Api(request) => match &mut self.writes {
                    Some(write) => write(request),
                    None => self.unsent.push(request),
                },
                Output::Notice(change) => (self.notices)(change),
            }
        }
        Ok(())
    }
}
