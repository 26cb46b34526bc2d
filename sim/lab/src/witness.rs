//! What happened, as the usual tools saw it: saved when a scenario fails, and when it is asked for.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::host::Switch;
use crate::lab::Lab;
use crate::process::Process;

/// Where captures are written until somebody wants them; goes with the lab.
const CAPTURES: &str = "/run/captures";
/// Bytes of each packet that are kept: headers, and the beginning of BGP messages.
const SNAP: &str = "160";
/// A capture is a ring of this many files of this many million bytes.
const RING: [&str; 2] = ["2", "16"];

/// Programs that look at each host in the end: the file, the program, its arguments.
const PROGRAMS: &[(&str, &str, &[&str])] = &[
    ("addresses.json", "ip", &["-j", "-d", "address", "show"]),
    ("rules.json", "ip", &["-j", "rule", "show"]),
    ("rules6.json", "ip", &["-j", "-6", "rule", "show"]),
    ("routes.json", "ip", &["-j", "-d", "route", "show", "table", "all"]),
    ("routes6.json", "ip", &["-j", "-d", "-6", "route", "show", "table", "all"]),
    ("neighbours.json", "ip", &["-j", "neighbour", "show"]),
    ("ruleset.json", "nft", &["-j", "list", "ruleset"]),
    ("ipvs.txt", "ipvsadm", &["-Sn"]),
    ("ipvs-connections.txt", "ipvsadm", &["-Lcn"]),
    ("conntrack.txt", "conntrack", &["-L"]),
];

/// Captures on every LAN.
#[derive(Debug)]
pub(crate) struct Witnesses {
    /// By LAN; killed when dropped.
    captures: BTreeMap<String, Process>,
    /// Why there are none.
    without: Option<String>,
}

impl Witnesses {
    /// Starts a capture on each LAN. A system without `tcpdump` has none, which is said when they are wanted.
    pub(crate) fn start(switch: &Switch) -> Witnesses {
        let mut witnesses = Witnesses { captures: BTreeMap::new(), without: None };
        for (lan, bridge) in switch.bridges() {
            let started = std::fs::create_dir_all(CAPTURES).and_then(|()| {
                let mut command = Command::new("tcpdump");
                // As root it would give up its privileges to a user who may not write here.
                command.args(["-Z", "root", "-n", "-U", "-i", bridge, "-s", SNAP, "-W", RING[0], "-C", RING[1], "-w"]);
                command.arg(format!("{CAPTURES}/{lan}.pcap")).stdout(Stdio::null()).stderr(Stdio::null());
                switch.space().spawn(&mut command)
            });
            match started {
                Ok(process) => drop(witnesses.captures.insert(lan.clone(), process)),
                Err(error) => witnesses.without = Some(error.to_string()),
            }
        }
        witnesses
    }

    /// Lets the captures write what they have.
    fn stop(&mut self) {
        for process in self.captures.values() {
            process.terminate();
        }
        for process in self.captures.values_mut() {
            let _over = process.child().wait();
        }
    }
}

impl Lab {
    /// Saves what `ip`, `nft`, `ipvsadm` and `conntrack` say on every host, and the captures, below a folder. A program
    /// that is not there, or fails, leaves its complaint in place of its output. Captures end with this.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn save_witnesses(&mut self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (name, host) in &self.hosts {
            let folder = folder.join(name);
            std::fs::create_dir_all(&folder)?;
            for (file, program, arguments) in PROGRAMS {
                let text = host.space.text(program, arguments).unwrap_or_else(|error| format!("{error}\n"));
                std::fs::write(folder.join(file), text)?;
            }
            if let Some(trouble) = host.foreign.as_ref().and_then(|router| router.trouble()) {
                std::fs::write(folder.join("rib-to-fib.txt"), trouble)?;
            }
            let log = PathBuf::from("/run/routers").join(name).join("log");
            if let Ok(text) = std::fs::read(log) {
                std::fs::write(folder.join("router.log"), text)?;
            }
        }
        self.witnesses.stop();
        if let Some(why) = &self.witnesses.without {
            std::fs::write(folder.join("no-capture.txt"), format!("{why}\n"))?;
        }
        if let Ok(captures) = std::fs::read_dir(CAPTURES) {
            for capture in captures.flatten() {
                let name = capture.file_name();
                std::fs::copy(capture.path(), folder.join(name))?;
            }
        }
        let failures: String = self.failures.iter().map(|failure| format!("{failure}\n")).collect();
        if !failures.is_empty() {
            std::fs::write(folder.join("lab.txt"), failures)?;
        }
        Ok(())
    }
}
