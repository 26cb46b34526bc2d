//! Starting a guest and ending it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, StatVfsMountFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::Error;
use crate::init::OUT_VARIABLE;
use crate::job::{DMESG, JOB, Job, RC};
use crate::kernel::in_path;
use crate::temp::TempDir;

/// How much of the kernel's console [`Ended::Died`] tells.
const LAST_LINES: usize = 20;

/// A program and the guest that it is to run in.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The kernel, from [`kernel`](crate::kernel).
    pub kernel: PathBuf,
    /// The program; a name without `/` is looked up in the guest's `PATH`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The directory that it starts in.
    pub cwd: PathBuf,
    /// The only host directory that the guest can write, [`OUT`](crate::OUT) inside; made when missing.
    ///
    /// It gets the files `rc` (the exit status) and `dmesg` (the kernel's log).
    pub out: PathBuf,
    /// The guest's memory.
    pub memory_mib: u32,
    /// After this the guest is killed.
    pub timeout: Duration,
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The program ended with this status; 128 and the number for a signal, 126 and 127 when it could not be run.
    Exit(u8),
    /// It took too long.
    Timeout,
    /// The guest ended before the program: the last lines of the kernel's console.
    Died(String),
}

/// Runs the guest's program and waits for it. The program's output goes to ours, standard error separately.
///
/// The guest's init is the running binary, so its `main` must begin with [`guest_init`](crate::guest_init). The guest
/// ends with this process, however that ends, when the tool `setpriv` is there; without it a killed process leaves the
/// guest running until its program ends. The calling thread must stay: the kernel dies with the thread that started it.
///
/// The guest has its own /dev, /proc, /run and /sys, so neither the binary nor the program can be there.
pub fn run(guest: &Guest) -> Result<Ended, Error> {
    let init = std::env::current_exe().map_err(Error::io("find the running binary"))?;
    let init = plain(&init)?;
    fs::create_dir_all(&guest.out).map_err(Error::io(format!("make {}", guest.out.display())))?;
    let out = guest.out.canonicalize().map_err(Error::io(format!("find {}", guest.out.display())))?;
    let out_word = plain(&out)?;
    [RC, DMESG, JOB].into_iter().try_for_each(|name| remove(&out.join(name)))?;
    let temp = TempDir::new_in(&std::env::temp_dir()).map_err(Error::io("make a temporary directory"))?;
    let temp_word = plain(temp.path())?;
    let words = [guest.program.clone().into_os_string()].into_iter().chain(guest.args.iter().cloned()).collect();
    let job = Job { cwd: guest.cwd.clone().into_os_string(), words, env: guest.env.clone() };
    write_job(&out.join(JOB), &job.encode().ok_or(Error::Nul)?).map_err(Error::io("write the job"))?;

    let log = temp.path().join("console");
    let console = File::create(&log).map_err(Error::io("make the console's file"))?;
    let mut command = command(&guest.kernel);
    command
        .arg(format!("mem={}M", guest.memory_mib))
        .arg(format!("umid={}", temp.path().file_name().unwrap_or_default().display()))
        .arg(format!("uml_dir={temp_word}/"))
        .args(["rootfstype=hostfs", "rootflags=/", "ro", "quiet", "noreboot", "panic=-1"])
        // tty0 and tty1 carry the program's output and nothing else: the kernel's own words go to tty2, which is our
        // file, passed as standard input because that is the descriptor left.
        .args(["con=null", "con0=null,fd:1", "con1=null,fd:2", "con2=null,fd:0", "console=tty2"])
        .arg(format!("init={init}"))
        .arg(format!("{OUT_VARIABLE}={out_word}"))
        .current_dir(temp.path())
        .stdin(console)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(memory) = memory_dir(guest.memory_mib) {
        command.env("TMPDIR", memory);
    }
    let started = Instant::now();
    let child = command.spawn().map_err(Error::io(format!("start {}", guest.kernel.display())))?;
    let ended = watch(child, started, guest.timeout);
    remove(&out.join(JOB))?;
    let Some(status) = ended? else { return Ok(Ended::Timeout) };

    let rc = fs::read_to_string(out.join(RC)).ok().and_then(|text| text.trim().parse().ok());
    Ok(match rc {
        Some(rc) => Ended::Exit(rc),
        None => {
            let said = last_lines(&fs::read(&log).unwrap_or_default());
            Ended::Died(if said.is_empty() { format!("the kernel said nothing ({status})") } else { said })
        }
    })
}

/// The kernel, killed when we die if there is a tool for that, as leader of its own process group.
fn command(kernel: &Path) -> Command {
    let mut command = match in_path("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(kernel);
            command
        }
        None => Command::new(kernel),
    };
    command.process_group(0);
    command
}

/// Passes the output on until the guest ends or its time is up; nothing for the latter.
fn watch(mut child: Child, started: Instant, timeout: Duration) -> Result<Option<std::process::ExitStatus>, Error> {
    let stdout = child.stdout.take().map(|from| thread::spawn(move || pass(from, io::stdout())));
    let stderr = child.stderr.take().map(|from| thread::spawn(move || pass(from, io::stderr())));
    let in_time = wait_until(&child, started, timeout);
    // Not yet waited for, so the number of the group is still its own. It has helpers that may outlive the kernel, and
    // when nothing is left there is nothing to kill.
    let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
    let status = child.wait().map_err(Error::io("wait for the guest"));
    for thread in [stdout, stderr].into_iter().flatten() {
        // It panics only when our own output does.
        let _ = thread.join();
    }
    let (in_time, status) = (in_time?, status?);
    Ok(in_time.then_some(status))
}

/// Whether the child ends in time. It stays to be waited for.
fn wait_until(child: &Child, started: Instant, timeout: Duration) -> Result<bool, Error> {
    let what = "watch the guest";
    let process = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(Error::io(what))?;
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::io(what)(error)),
        }
    }
}

/// Copies until the end. When our output is gone the rest is read all the same, lest the guest waits for ever.
fn pass(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                let _ = to.write_all(&buffer[..length]).and_then(|()| to.flush());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The last lines of the kernel's console that say something.
fn last_lines(console: &[u8]) -> String {
    let text = String::from_utf8_lossy(console);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

/// Writes the job's file for our eyes only: an environment may hold secrets.
fn write_job(path: &Path, text: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(text)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// The path as a word of a kernel command line, which has no reliable way to quote.
fn plain(path: &Path) -> Result<&str, Error> {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._+-@:=~%".contains(byte);
    let bytes = path.as_os_str().as_bytes();
    path.to_str().filter(|_| bytes.iter().all(good)).ok_or_else(|| Error::Path(path.to_owned()))
}

/// A file system in memory for the guest's memory, if there is one with enough room that may be executed from.
fn memory_dir(mib: u32) -> Option<&'static OsStr> {
    let dir = "/dev/shm";
    let stat = rustix::fs::statvfs(dir).ok()?;
    let room = stat.f_bavail.saturating_mul(stat.f_frsize) >= u64::from(mib) << 20;
    let usable = rustix::fs::access(dir, Access::WRITE_OK).is_ok() && !stat.f_flag.contains(StatVfsMountFlags::NOEXEC);
    (room && usable).then_some(OsStr::new(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_for_a_kernel_command_line() {
        assert_eq!(plain(Path::new("/a/b-c_1.2")).unwrap(), "/a/b-c_1.2");
        for path in ["/a b", "/a\"b", "/a,b", "/ä"] {
            assert!(plain(Path::new(path)).unwrap_err().to_string().contains("cannot use the path"));
        }
    }

    #[test]
    fn any_bytes_are_passed_on() {
        let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
        let mut out = Vec::new();
        pass(&bytes[..], &mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn the_end_of_the_console() {
        assert_eq!(last_lines(b"a\r\n\r\nb\nc\n"), "a\nb\nc");
        assert_eq!(last_lines("x\n".repeat(50).as_bytes()).lines().count(), LAST_LINES);
        assert_eq!(last_lines(b""), "");
    }
}
