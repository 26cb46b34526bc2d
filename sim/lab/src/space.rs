//! Namespaces for the lab as a whole, so that nothing is left behind.
//!
//! The lab runs as the first process of a PID namespace, with a mount and a network namespace of its own. When it ends
//! (or is killed, or the process that waits for it is killed), the kernel ends every process in it; with the last one
//! go the mounts, the network namespaces and all that is in them.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Signal, set_parent_process_death_signal};

/// Tells the program that it runs inside already.
const INSIDE: &str = "FAIRWAY_LAB";

/// Where the calling process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Inside: go on and play.
    Inside,
    /// Outside: another process played inside and ended with this status.
    Over(u8),
}

/// Why there are no namespaces to be had.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// The kernel refuses.
    #[error("cannot make namespaces for the lab ({what}): {source}. Run it as root, or with --stage uml as any user")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn refused(what: &'static str) -> impl Fn(io::Error) -> SpaceError {
    move |source| SpaceError::Refused { what, source }
}

/// Makes the lab's namespaces and runs this program in them once more, with the same arguments, and waits for it; or,
/// in that second process, makes itself at home.
///
/// Call it while the process has one thread: a user namespace, which an ordinary user needs, is refused otherwise.
///
/// # Errors
/// If the system refuses a namespace.
pub fn enter() -> Result<Place, SpaceError> {
    if std::env::var_os(INSIDE).is_some() {
        settle()?;
        return Ok(Place::Inside);
    }
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    if !uid.is_root() {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| refused("user namespace")(e.into()))?;
        let map = |file: &str, text: String| {
            std::fs::write(format!("/proc/self/{file}"), text).map_err(refused("user namespace"))
        };
        map("setgroups", "deny".into())?;
        map("uid_map", format!("0 {} 1", uid.as_raw()))?;
        map("gid_map", format!("0 {} 1", gid.as_raw()))?;
    }
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET;
    unshare(flags).map_err(|e| refused("mount, PID and network namespaces")(e.into()))?;
    let program = std::env::current_exe().map_err(refused("own program"))?;
    let status = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .map_err(refused("process"))?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(Place::Over(u8::try_from(code).unwrap_or(1)))
}

/// The first steps of the process inside.
fn settle() -> Result<(), SpaceError> {
    // Whoever waits for us may be killed: then there is nobody to play for.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| refused("death signal")(e.into()))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| refused("private mounts")(e.into()))?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)
        .map_err(|e| refused("own /run")(e.into()))?;
    for folder in ["/run/netns", "/run/lock"] {
        std::fs::create_dir_all(folder).map_err(refused("own /run"))?;
    }
    // Without privileges the old /proc stays; it serves as well, but shows the processes outside.
    let _kept = mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None);
    // /sys shows the network of the namespace in which it was mounted.
    let _kept = mount("sysfs", "/sys", "sysfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None);
    Ok(())
}
