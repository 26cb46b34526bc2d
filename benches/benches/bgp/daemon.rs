//! The daemon under test: a process of its own, told to be passive and to let everything pass.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::ours;
use crate::peers::{FIRST_AS, OTHER_AS, collector_address, first_address};

/// Everybody's network.
pub(crate) const NETWORK: &str = "192.168.9.1/24";
/// Where the daemon listens.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 1);
/// Its port: not BGP's, so that nothing else is met.
pub(crate) const PORT: u16 = 1790;
/// Hold time of all sessions, so long that no run needs a keepalive.
pub(crate) const HOLD_S: u16 = 3_600;
/// Its AS.
pub(crate) const ASN: u32 = 65_001;

/// Which daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Bird,
    Frr,
    Gobgp,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Ours, Kind::Bird, Kind::Frr, Kind::Gobgp];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Ours => "ours",
            Kind::Bird => "bird",
            Kind::Frr => "frr",
            Kind::Gobgp => "gobgpd",
        }
    }

    fn program(self) -> PathBuf {
        match self {
            Kind::Ours => std::env::current_exe().unwrap(),
            Kind::Bird => "/usr/sbin/bird".into(),
            Kind::Frr => "/usr/lib/frr/bgpd".into(),
            Kind::Gobgp => "/usr/bin/gobgpd".into(),
        }
    }

    pub(crate) fn is_here(self) -> bool {
        self.program().exists()
    }
}

/// Neighbours and their AS numbers.
pub(crate) fn neighbors(collectors: u8) -> impl Iterator<Item = (Ipv4Addr, u32)> {
    [(first_address(), FIRST_AS)].into_iter().chain((0..collectors).map(|n| (collector_address(n), OTHER_AS)))
}

/// A running daemon, killed when dropped. Its files go with it.
pub(crate) struct Daemon {
    child: Child,
    folder: PathBuf,
}

impl Daemon {
    pub(crate) fn start(kind: Kind, collectors: u8) -> Result<Daemon, String> {
        let folder = std::env::temp_dir().join(format!("fairway-bench-bgp-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut command = Command::new(kind.program());
        let text = match kind {
            Kind::Ours => {
                command.args([ours::ARGUMENT, &collectors.to_string()]);
                String::new()
            }
            Kind::Bird => bird(&mut command, &folder, collectors),
            Kind::Frr => frr(&mut command, &folder, collectors),
            Kind::Gobgp => gobgp(&mut command, &folder, collectors),
        };
        std::fs::write(folder.join("conf"), text).map_err(|error| format!("{}: {error}", folder.display()))?;
        let log = std::fs::File::create(folder.join("log")).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().map_err(|error| format!("{}: {error}", kind.name()))?;
        Ok(Daemon { child, folder })
    }

    /// Its last words.
    pub(crate) fn words(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    fn proc(&self, file: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    }

    /// Time on a CPU so far. The kernel counts user and system time of all threads in ticks; the scheduler's account of
    /// each thread is finer.
    pub(crate) fn cpu(&self) -> Result<Duration, String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).map_err(|error| error.to_string())?;
        let mut nanos = 0;
        for task in tasks.flatten() {
            // A thread may end while we look.
            let Ok(text) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
            nanos += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// The largest resident set so far, in KiB.
    pub(crate) fn peak_kib(&self) -> Result<u64, String> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        line.trim().trim_end_matches(" kB").parse().map_err(|_| format!("VmHWM is {line}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _status = self.child.wait();
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}

fn bird(command: &mut Command, folder: &Path, collectors: u8) -> String {
    let path = |name: &str| folder.join(name);
    command.arg("-f").arg("-c").arg(path("conf")).arg("-s").arg(path("control")).arg("-P").arg(path("pid"));
    let mut text = format!(
        "router id {ADDRESS};\nprotocol device {{}}\ntemplate bgp open {{\n  local {ADDRESS} port {PORT} as {ASN};\n  \
         passive yes;\n  hold time {HOLD_S};\n  ipv4 {{ import all; export all; }};\n}}\n"
    );
    for (n, (address, asn)) in neighbors(collectors).enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "protocol bgp p{n} from open {{ neighbor {address} as {asn}; }}");
    }
    text
}

fn gobgp(command: &mut Command, folder: &Path, collectors: u8) -> String {
    command.args(["-t", "toml", "--api-hosts", "127.0.0.1:1791", "-l", "warn", "-f"]).arg(folder.join("conf"));
    let mut text = format!(
        "[global.config]\nas = {ASN}\nrouter-id = \"{ADDRESS}\"\nport = {PORT}\nlocal-address-list = [\"{ADDRESS}\"]\n"
    );
    for (address, asn) in neighbors(collectors) {
        let _ = writeln!(
            text,
            "[[neighbors]]\n[neighbors.config]\npeer-as = {asn}\nneighbor-address = \"{address}\"\n\
             [neighbors.transport.config]\npassive-mode = true\n[neighbors.timers.config]\nhold-time = {HOLD_S}\nkeepalive-interval = {}",
            HOLD_S / 3
        );
    }
    text
}

fn frr(command: &mut Command, folder: &Path, collectors: u8) -> String {
    // Without the other daemons, without a terminal, as who we are.
    command.args(["-n", "-Z", "-S", "-P", "0", "-p", &PORT.to_string(), "-l", &ADDRESS.to_string()]);
    command.arg("-f").arg(folder.join("conf")).arg("-i").arg(folder.join("pid"));
    command.arg("--vty_socket").arg(folder).arg("-z").arg(folder.join("zserv"));
    let mut text = format!(
        "router bgp {ASN}\n bgp router-id {ADDRESS}\n no bgp ebgp-requires-policy\n no bgp network import-check\n"
    );
    for (address, asn) in neighbors(collectors) {
        let _ = writeln!(
            text,
            " neighbor {address} remote-as {asn}\n neighbor {address} passive\n \
             neighbor {address} disable-connected-check\n neighbor {address} timers {} {HOLD_S}",
            HOLD_S / 3
        );
    }
    text
}
