//! Programs and threads in a network namespace.

use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use netns_rs::NetNs;

/// What IPv6 interfaces do in their first seconds. When an address leaves duplicate address detection, routes change, and
/// a host that is itself a client of an ECMP route looks its connections up anew, now with their source ports, and
/// sends the rest of them another way. Hosts of a lab are as if they had been up for a while.
const QUIET: [&str; 3] = ["accept_dad", "dad_transmits", "router_solicitations"];

/// A network namespace; the last one who has it removes it.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    inner: Option<NetNs>,
}

impl Namespace {
    /// Makes one.
    pub(crate) fn new(name: &str) -> io::Result<Arc<Namespace>> {
        let inner = NetNs::new(name).map_err(|error| io::Error::other(format!("namespace {name}: {error}")))?;
        let space = Arc::new(Namespace { name: name.into(), inner: Some(inner) });
        space.within(|| {
            QUIET.iter().try_for_each(|parameter| {
                let write = |scope| std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/{parameter}"), "0");
                match write("all").and_then(|()| write("default")) {
                    // A kernel without IPv6 has nothing to be quieted.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    result => result,
                }
            })
        })?;
        Ok(space)
    }

    /// Its name, as `ip netns` shows it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The calling thread enters it for good.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.inner().enter().map_err(|error| io::Error::other(format!("namespace {}: {error}", self.name)))
    }

    /// The file that stands for it.
    pub(crate) fn file(&self) -> &std::fs::File {
        self.inner().file()
    }

    fn inner(&self) -> &NetNs {
        self.inner.as_ref().expect("it is taken only when it is dropped")
    }

    /// Calls something in it. A thread of its own does, so that no failure can leave the caller elsewhere.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the lab panicked")))
        })
    }

    /// Starts a program in it.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null());
        let child = self.within(|| command.spawn());
        child.map(Process).map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))
    }

    /// Runs a program in it to its end.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> io::Result<Output> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let output = self.within(|| command.output());
        output.map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))
    }

    /// What a program in it prints.
    pub(crate) fn text(&self, program: &str, arguments: &[&str]) -> io::Result<String> {
        let output = self.output(program, arguments)?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("{program} {}: {}", arguments.join(" "), said.trim())))
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            // It goes with the lab's mount namespace at the latest.
            let _later = inner.remove();
        }
    }
}

/// A program that runs; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// The program.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Asks it to end (SIGTERM).
    pub(crate) fn terminate(&self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            // It may be gone already.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}
