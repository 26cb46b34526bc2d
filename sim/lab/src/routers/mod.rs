//! Routing daemons that are not ours in the router hosts: gobgpd, BIRD, FRR, ExaBGP.
//!
//! Each is a [`Daemon`]: how it is configured and started, and how its own tool is asked. Start reading there; what
//! follows is the same for all.

mod bird;
mod exabgp;
mod frr;
mod gobgp;
mod mirror;

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_objects::{GracefulRestart, NodeConfig, Role, RouterConfig};
use fairway_scenario::{BfdSession, BgpShow, Neighbor, RibPath, Software};
use ipnet::IpNet;

use crate::host::Host;
use crate::process::{Namespace, Process};
use mirror::Mirror;

/// How long a daemon may take to answer for the first time.
const START: Duration = Duration::from_secs(30);
/// How long a daemon that was asked to end may take.
const END: Duration = Duration::from_secs(5);

/// One kind of routing daemon.
pub(crate) trait Daemon: Debug + Send + Sync {
    /// Writes its configuration into its folder and says which programs to start, in this order. `again`: it ran here
    /// before, and was not rebooted.
    fn prepare(&self, place: &Place, settings: &Settings, again: bool) -> io::Result<Vec<Program>>;

    /// What is left to be said when it answers.
    fn started(&self, _place: &Place, _settings: &Settings) -> io::Result<()> {
        Ok(())
    }

    /// The tools of its operator, and the words that lead them to this daemon: `("birdc", "-s /run/…")`.
    fn tools(&self, place: &Place) -> Vec<(&'static str, String)>;

    /// The rows of `gobgp neighbor`, or what its own tool says of the same.
    fn neighbors(&self, place: &Place) -> io::Result<Vec<Neighbor>>;

    /// The rows of `gobgp global rib`, or what its own tool says of the same.
    fn rib(&self, place: &Place, ipv6: bool) -> io::Result<Vec<RibPath>>;

    /// Its BFD sessions; none if it has no BFD.
    fn bfd(&self, _place: &Place) -> io::Result<Vec<BfdSession>> {
        Ok(vec![])
    }

    /// What an operator would type to see neighbours or paths.
    fn show(&self, show: BgpShow) -> String;

    /// Resets the session with a neighbour.
    fn reset(&self, place: &Place, peer: IpAddr) -> io::Result<()>;

    /// Shuts the session with a neighbour down, with a message, or lets it come again.
    fn admin(&self, place: &Place, settings: &Settings, peer: IpAddr, down: Option<&str>) -> io::Result<()>;

    /// The import policy is another one now.
    fn policy(&self, place: &Place, settings: &Settings) -> io::Result<()>;

    /// Whether it writes routes to the kernel itself.
    fn writes_routes(&self) -> bool;
}

/// A program to start.
#[derive(Debug)]
pub(crate) struct Program {
    command: Command,
    /// A file that appears in its folder when it is ready for the next one.
    appears: Option<&'static str>,
}

impl Program {
    const fn new(command: Command) -> Program {
        Program { command, appears: None }
    }
}

/// What a daemon is to be.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) router: RouterConfig,
    pub(crate) graceful_restart: Option<GracefulRestart>,
    /// Addresses of the nodes, for daemons that cannot be told a range of neighbours.
    pub(crate) nodes: Vec<IpAddr>,
}

impl Settings {
    /// Prefixes of one family that are refused.
    fn rejected(&self, ipv6: bool) -> Vec<IpNet> {
        let of_family = |net: &&IpNet| net.addr().is_ipv6() == ipv6;
        self.router.import_reject.iter().filter(of_family).copied().collect()
    }

    /// Own prefixes of one family.
    fn networks(&self, ipv6: bool) -> impl Iterator<Item = &IpNet> {
        self.router.networks.iter().filter(move |net| net.addr().is_ipv6() == ipv6)
    }

    /// Families of the sessions, as `(IPv6, name)`.
    fn families(&self) -> Vec<bool> {
        let sessions = &self.router.sessions;
        [(false, sessions.ipv4), (true, sessions.ipv6)].into_iter().filter_map(|(v6, on)| on.then_some(v6)).collect()
    }

    /// Whether neighbours of an AS are clients to which it reflects.
    fn reflects_to(&self, asn: u32) -> bool {
        self.router.sessions.reflector && asn == self.router.asn
    }

    /// Its own address towards a neighbour.
    fn local(&self, peer: IpAddr) -> Option<IpAddr> {
        self.router.addresses.iter().find(|a| a.is_ipv6() == peer.is_ipv6()).copied()
    }
}

/// Where a daemon lives.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) space: Arc<Namespace>,
    /// Its configuration, its log, its sockets.
    pub(crate) folder: PathBuf,
}

impl Place {
    fn text(&self, program: &str, arguments: &[&str]) -> io::Result<String> {
        self.space.text(program, arguments)
    }

    /// The path of a file in its folder, as a word of a command.
    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        std::fs::write(self.folder.join(name), text)
    }
}

/// A routing daemon that is not ours.
#[derive(Debug)]
pub(crate) struct ForeignRouter {
    daemon: Arc<dyn Daemon>,
    place: Place,
    settings: Settings,
    // Dropped in this order: the mirror looks at the daemon.
    mirror: Option<Mirror>,
    /// The last one started is dropped first.
    processes: Vec<Process>,
}

impl Drop for ForeignRouter {
    fn drop(&mut self) {
        self.mirror = None;
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
    }
}

fn daemon(software: Software) -> io::Result<Arc<dyn Daemon>> {
    Ok(match software {
        Software::Gobgp => Arc::new(gobgp::Gobgp),
        Software::Bird => Arc::new(bird::Bird),
        Software::Frr => Arc::new(frr::Frr),
        Software::Exabgp => Arc::new(exabgp::Exabgp),
        Software::Fairway => return Err(io::Error::other("our own agent is no foreign router")),
    })
}

impl ForeignRouter {
    /// Starts it and returns when it answers. `again`: it ran on this host before.
    pub(crate) fn start(
        software: Software,
        host: &Host,
        config: &NodeConfig,
        nodes: Vec<IpAddr>,
        again: bool,
    ) -> io::Result<ForeignRouter> {
        let Role::Router(router) = &config.role else { return Err(io::Error::other("this host is no router")) };
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            host.sysctl(path, "1")?;
        }
        for family in ["ipv4", "ipv6"] {
            host.sysctl(&format!("net/{family}/fib_multipath_hash_policy"), "1")?;
        }
        let folder = PathBuf::from("/run/routers").join(&host.name);
        std::fs::create_dir_all(folder.join("bin"))?;
        let place = Place { space: Arc::clone(&host.space), folder };
        let settings = Settings { router: router.clone(), graceful_restart: config.graceful_restart, nodes };
        let daemon = daemon(software)?;
        for (tool, words) in daemon.tools(&place) {
            let path = place.folder.join("bin").join(tool);
            let rest = "PATH=${PATH#*:}";
            std::fs::write(&path, format!("#!/bin/sh\n{rest}\nexec {words} \"$@\"\n"))?;
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        let programs = daemon.prepare(&place, &settings, again)?;
        let mut foreign = ForeignRouter { daemon, place, settings, mirror: None, processes: vec![] };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(foreign.place.folder.join("log"))?;
        for Program { mut command, appears } in programs {
            command.stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log.try_clone()?));
            let appears = appears.map(|name| foreign.place.folder.join(name));
            if let Some(file) = &appears {
                // One that its predecessor left says nothing.
                let _absent = std::fs::remove_file(file);
            }
            foreign.processes.push(host.space.spawn(&mut command)?);
            if let Some(file) = appears {
                foreign
                    .wait(|_| if file.exists() { Ok(()) } else { Err(io::Error::other("it does not get ready")) })?;
            }
        }
        foreign.wait(|foreign| foreign.neighbors().map(drop))?;
        foreign.daemon.started(&foreign.place, &foreign.settings)?;
        if !foreign.daemon.writes_routes() {
            let own = foreign.settings.router.addresses.clone();
            foreign.mirror = Some(Mirror::new(Arc::clone(&foreign.daemon), foreign.place.clone(), own)?);
        }
        Ok(foreign)
    }

    /// Waits until it is ready, as the closure tells.
    fn wait(&mut self, ready: impl Fn(&ForeignRouter) -> io::Result<()>) -> io::Result<()> {
        let limit = Instant::now() + START;
        while let Err(error) = ready(self) {
            for process in &mut self.processes {
                if let Ok(Some(status)) = process.child().try_wait() {
                    let log = std::fs::read_to_string(self.place.folder.join("log")).unwrap_or_default();
                    return Err(io::Error::other(format!("the router ended ({status}): {}", log.trim())));
                }
            }
            if Instant::now() > limit {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Lets it end in order (SIGTERM), as in an upgrade.
    pub(crate) fn terminate(mut self) {
        self.mirror = None;
        while let Some(mut process) = self.processes.pop() {
            process.terminate();
            let limit = Instant::now() + END;
            // Who does not end in time is killed.
            while Instant::now() < limit && !matches!(process.child().try_wait(), Ok(Some(_)) | Err(_)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// The rows of `gobgp neighbor`.
    pub(crate) fn neighbors(&self) -> io::Result<Vec<Neighbor>> {
        self.daemon.neighbors(&self.place)
    }

    /// Its BFD sessions.
    pub(crate) fn bfd(&self) -> io::Result<Vec<BfdSession>> {
        self.daemon.bfd(&self.place)
    }

    /// The rows of `gobgp global rib`.
    pub(crate) fn rib(&self, ipv6: bool) -> io::Result<Vec<RibPath>> {
        self.daemon.rib(&self.place, ipv6)
    }

    /// What its own tool prints: the command, and its output.
    pub(crate) fn show(&self, show: BgpShow) -> io::Result<(String, String)> {
        let command = self.daemon.show(show);
        let text = self.type_in(&command)?;
        Ok((command, text))
    }

    /// What a command prints that is typed in a shell on this host, complaints included.
    pub(crate) fn type_in(&self, command: &str) -> io::Result<String> {
        type_in(&self.place.space, Some(&self.place), command)
    }

    /// Resets the session with a neighbour.
    pub(crate) fn reset(&self, peer: IpAddr) -> io::Result<()> {
        self.daemon.reset(&self.place, peer)
    }

    /// Shuts the session with a neighbour down, or lets it come again.
    pub(crate) fn admin(&self, peer: IpAddr, down: Option<&str>) -> io::Result<()> {
        self.daemon.admin(&self.place, &self.settings, peer, down)
    }

    /// Refuses these prefixes from now on, and no others.
    pub(crate) fn reject(&mut self, reject: &[IpNet]) -> io::Result<()> {
        self.settings.router.import_reject = reject.to_vec();
        self.daemon.policy(&self.place, &self.settings)
    }

    /// What went wrong last in writing routes to the kernel, if anything did.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.mirror.as_ref()?.trouble()
    }
}

/// What a command prints that is typed in a shell, complaints included. A program that does not exist is an error.
/// `$LOG` is the log of the daemon that lives there.
pub(crate) fn type_in(space: &Namespace, place: Option<&Place>, command: &str) -> io::Result<String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null());
    if let Some(place) = place {
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{path}", place.path("bin"))).env("LOG", place.path("log"));
    }
    let output = space.within(|| shell.output())?;
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    // The shell's status for a command that it did not find.
    if output.status.code() == Some(127) { Err(io::Error::other(text.trim().to_string())) } else { Ok(text) }
}

/// Time since the epoch, as daemons tell it.
fn unix_time() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// `ipv4` or `ipv6`.
fn family(ipv6: bool) -> &'static str {
    if ipv6 { "ipv6" } else { "ipv4" }
}
