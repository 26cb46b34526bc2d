//! PID 1 of the guest: makes a writable system out of the host's read-only one, runs the program, switches off.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Write, pipe};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::net::{AddressFamily, SendFlags, SocketType};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use rustix::system::RebootCommand;
use rustix::termios::{OptionalActions, OutputModes};

use crate::OUT;
use crate::job::{DMESG, JOB, Job, RC};

/// The variable that names the output directory on the host; it makes a process with PID 1 the guest's init.
pub(crate) const OUT_VARIABLE: &str = "FAIRWAY_UML_OUT";

/// What Debian's kernel has as modules and the guest needs before somebody asks for it.
const MODULES: [&str; 4] = ["overlay", "ipv6", "ip_vs", "br_netfilter"];

/// Whether this process is PID 1 of a guest that [`run`](crate::run) started.
pub fn is_guest_init() -> bool {
    std::process::id() == 1 && std::env::var_os(OUT_VARIABLE).is_some()
}

/// Prepares the guest, runs its program and switches the guest off.
///
/// Only for a process for which [`is_guest_init`] is true. What fails here goes to the kernel's console, so that it
/// arrives in [`Ended::Died`](crate::Ended::Died).
pub fn guest_init() -> ! {
    if let Err(Failed { what, source }) = life() {
        eprintln!("fairway-uml: cannot {what}: {source}");
    }
    rustix::fs::sync();
    loop {
        if rustix::system::reboot(RebootCommand::PowerOff).is_err() {
            // Not PID 1 of a guest after all.
            std::process::exit(125);
        }
    }
}

struct Failed {
    what: String,
    source: io::Error,
}

/// For `map_err`, like [`crate::Error::io`].
fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Failed {
    let what = what.into();
    move |source| Failed { what, source: source.into() }
}

fn life() -> Result<(), Failed> {
    load_modules();
    root()?;
    lo_up().map_err(failed("set lo up"))?;
    rustix::system::sethostname(b"uml").map_err(failed("set the host name"))?;

    let text = fs::read(Path::new(OUT).join(JOB)).map_err(failed("read the job"))?;
    let job = Job::decode(&text).ok_or_else(|| failed("read the job")(io::Error::from(io::ErrorKind::InvalidData)))?;
    let (stdout, stdout_end) = console("/dev/tty0")?;
    let (stderr, stderr_end) = console("/dev/tty1")?;
    let status = program(&job, stdout, stderr)?;

    end_the_others();
    for copier in [stdout_end, stderr_end] {
        // A copier that panicked has said so on the console.
        let _ = copier.join();
    }
    let out = Path::new(OUT);
    fs::write(out.join(DMESG), kernel_log()).map_err(failed("write dmesg"))?;
    fs::write(out.join(RC), format!("{status}\n")).map_err(failed("write the exit status"))?;
    Ok(())
}

/// Debian's packaged kernel needs modules; the one we build has none and no directory for them.
fn load_modules() {
    let name = rustix::system::uname();
    let dir = Path::new("/lib/modules").join(std::ffi::OsStr::from_bytes(name.release().to_bytes()));
    if dir.is_dir() {
        // What then is missing shows where it is needed, the overlay first.
        let _ = mount("proc", "/proc", "proc", MountFlags::empty(), None);
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-a").args(MODULES).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let _ = modprobe.stdin(Stdio::null()).status();
    }
}

fn attach(kind: &str, target: &str, data: &str) -> Result<(), Failed> {
    // The callers are below: constants without NUL, and a path from the environment.
    let data = CString::new(data).map_err(failed(format!("mount {kind} on {target}")))?;
    mount(kind, target, kind, MountFlags::empty(), data.as_c_str()).map_err(failed(format!("mount {kind} on {target}")))
}

fn directory(path: &str) -> Result<(), Failed> {
    fs::create_dir_all(path).map_err(failed(format!("make the directory {path}")))
}

/// Puts a layer in memory above the host's files, the usual file systems into it, and makes it the root.
fn root() -> Result<(), Failed> {
    attach("tmpfs", "/mnt", "size=75%,mode=755")?;
    ["/mnt/u", "/mnt/w", "/mnt/m"].into_iter().try_for_each(directory)?;
    attach("overlay", "/mnt/m", "lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w")?;
    std::env::set_current_dir("/mnt/m").map_err(failed("enter the new root"))?;
    ["mnt/out", "mnt/old", "proc", "sys", "dev", "run"].into_iter().try_for_each(directory)?;
    attach("proc", "proc", "")?;
    attach("sysfs", "sys", "")?;
    attach("devtmpfs", "dev", "")?;
    ["dev/pts", "dev/shm"].into_iter().try_for_each(directory)?;
    attach("devpts", "dev/pts", "mode=620,ptmxmode=666")?;
    attach("tmpfs", "dev/shm", "mode=1777")?;
    attach("tmpfs", "run", "mode=755")?;
    ["run/netns", "run/lock"].into_iter().try_for_each(directory)?;
    for (link, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        match symlink(Path::new("/proc/self").join(target), Path::new("dev").join(link)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("fill /dev")(error)),
            _ => {}
        }
    }
    // The kernel we build has no control groups; Debian's has.
    let _ = mount("cgroup2", "sys/fs/cgroup", "cgroup2", MountFlags::empty(), None);
    let out = std::env::var(OUT_VARIABLE)
        .map_err(|error| failed("find the output directory")(io::Error::other(error.to_string())))?;
    attach("hostfs", "mnt/out", &out)?;
    // Not chroot: user namespaces and the loading of modules need a real root.
    rustix::process::pivot_root(".", "mnt/old").map_err(failed("change the root"))?;
    rustix::process::chroot(".").map_err(failed("change the root"))?;
    std::env::set_current_dir("/").map_err(failed("enter the root"))?;
    unmount("/mnt/old", UnmountFlags::DETACH).map_err(failed("leave the old root"))?;
    fs::remove_dir("/mnt/old").map_err(failed("leave the old root"))
}

/// Sets the loopback interface up: one message, so no netlink library.
fn lo_up() -> io::Result<()> {
    const LENGTH: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_ACK: u16 = 4;
    const IFF_UP: u32 = 1;
    /// The loopback interface is the first of every network namespace.
    const LO: u32 = 1;

    let mut message = Vec::new();
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // Sequence number and port; then family and device type, all of them 0.
    message.extend([0; 12]);
    message.extend(LO.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());

    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 256];
    let length = rustix::io::read(&socket, &mut answer)?;
    // The header, 16 bytes, and the negative error number of the acknowledgement.
    let code = answer.get(16..20).filter(|_| length >= 20).and_then(|code| code.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Opens a console as it is, without CRs, and copies to it what comes through the returned pipe.
///
/// The program gets the pipe, not the terminal: many programs colour and page what goes to a terminal.
fn console(path: &str) -> Result<(io::PipeWriter, JoinHandle<()>), Failed> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(path, flags, Mode::empty()).map_err(failed(format!("open {path}")))?;
    let mut modes = rustix::termios::tcgetattr(&terminal).map_err(failed(format!("read the modes of {path}")))?;
    modes.output_modes.remove(OutputModes::OPOST);
    rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &modes)
        .map_err(failed(format!("set the modes of {path}")))?;
    let (reader, writer) = pipe().map_err(failed("make a pipe"))?;
    let name = path.to_owned();
    let copier = thread::spawn(move || {
        if let Err(error) = copy(reader, File::from(terminal)) {
            eprintln!("fairway-uml: cannot write to {name}: {error}");
        }
    });
    Ok((writer, copier))
}

fn copy(mut from: PipeReader, mut to: File) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            length => to.write_all(&buffer[..length])?,
        }
    }
    Ok(rustix::termios::tcdrain(&to)?)
}

/// Runs the program and reaps whatever ends before it; returns the exit status as a shell would.
fn program(job: &Job, stdout: io::PipeWriter, mut stderr: io::PipeWriter) -> Result<u8, Failed> {
    let Some((program, args)) = job.words.split_first() else {
        return Err(failed("run a job without a program")(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let say = stderr.try_clone().map_err(failed("copy a pipe"))?;
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(job.env.iter().map(|(name, value)| (name, value))).current_dir(&job.cwd);
    let child = command.stdin(Stdio::null()).stdout(stdout).stderr(say).spawn();
    // The command holds the other ends of the pipes; the copiers wait until nobody does.
    drop(command);
    let child = match child {
        Ok(child) => child,
        Err(error) => {
            let (program, cwd) = (program.display(), job.cwd.display());
            // Nobody reads: then nobody misses it.
            let _ = writeln!(stderr, "fairway-uml: cannot run {program} in {cwd}: {error}");
            return Ok(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    drop(stderr);
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid().cast_unsigned() == child.id() => {
                return Ok(shell_status(status));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed("wait for the program")(error)),
        }
    }
}

/// The exit status, or 128 and the signal's number.
fn shell_status(status: WaitStatus) -> u8 {
    let signal = || status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or_else(signal).and_then(|status| u8::try_from(status).ok()).unwrap_or(u8::MAX)
}

/// Kills what the program left behind, so that nobody holds the pipes open any more.
fn end_the_others() {
    // A process that forks while the list is read can escape once, not for ever.
    loop {
        let mut left = 0;
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            // Kernel threads have no executable; PID 1 is us.
            if let Some(pid) = pid.filter(|pid| *pid != Pid::INIT)
                && fs::read_link(entry.path().join("exe")).is_ok()
                && rustix::process::kill_process(pid, Signal::KILL).is_ok()
            {
                left += 1;
            }
        }
        while matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        if left == 0 {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// The kernel's log, a line for each message. Nothing when the kernel does not give it.
fn kernel_log() -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(device) = rustix::fs::open("/dev/kmsg", flags, Mode::empty()) else { return String::new() };
    let (mut log, mut record) = (String::new(), vec![0; 1 << 14]);
    loop {
        match rustix::io::read(&device, &mut record) {
            Ok(0) => return log,
            Ok(length) => log.extend(log_line(&String::from_utf8_lossy(&record[..length]))),
            // Messages were lost: go on with the oldest that is left.
            Err(rustix::io::Errno::PIPE) => {}
            Err(_) => return log,
        }
    }
}

/// `priority,sequence,microseconds,flags;text`, and lines with details that we leave out, as dmesg prints it.
fn log_line(record: &str) -> Option<String> {
    let (head, text) = record.split_once(';')?;
    let time: u64 = head.split(',').nth(2)?.parse().ok()?;
    Some(format!("[{:5}.{:06}] {}\n", time / 1_000_000, time % 1_000_000, text.lines().next().unwrap_or("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_message_looks_like_in_dmesg() {
        let line = log_line("6,339,5140900,-;NET: Registered\n SUBSYSTEM=x\n");
        assert_eq!(line.as_deref(), Some("[    5.140900] NET: Registered\n"));
        assert_eq!(log_line("rubbish"), None);
    }

    #[test]
    fn we_are_not_the_guests_init() {
        assert!(!is_guest_init());
    }
}
