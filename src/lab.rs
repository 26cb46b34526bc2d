//! The stages with a real kernel: going where they are, and making them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use fairway_lab::space::{self, Place};
use fairway_uml::{Ended, Guest};

/// Tells the program that it runs in a guest already.
const IN_GUEST: &str = "FAIRWAY_IN_GUEST";
/// Memory of a guest: a cluster of some dozen processes, and the layer that holds what it writes.
const MEMORY_MIB: u32 = 2048;
/// How long a guest may take for one scenario with one seed.
const PER_RUN: Duration = Duration::from_secs(600);

/// Names in the folder of a guest.
const JUNIT: &str = "junit.xml";
const WITNESS: &str = "witness";

/// Who plays the routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Routers {
    /// Our own agent.
    Fairway,
    /// Debian's gobgpd, with its RIB written to the kernel.
    Gobgp,
    /// Debian's BIRD 2.
    Bird,
}

impl From<Routers> for fairway_lab::Routers {
    fn from(routers: Routers) -> Self {
        match routers {
            Routers::Fairway => fairway_lab::Routers::Fairway,
            Routers::Gobgp => fairway_lab::Routers::Gobgp,
            Routers::Bird => fairway_lab::Routers::Bird,
        }
    }
}

/// Whether this process runs in a guest of ours.
pub(crate) fn in_guest() -> bool {
    std::env::var_os(IN_GUEST).is_some()
}

/// Goes where the lab is: `None` when this process is there, else the exit status of the one that was.
///
/// # Errors
/// One sentence, if the system refuses namespaces.
pub(crate) fn go_inside() -> Result<Option<u8>, String> {
    match space::enter() {
        Ok(Place::Inside) => Ok(None),
        Ok(Place::Over(status)) => Ok(Some(status)),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs this program with the same arguments in a guest, and returns its exit status. What the guest left in its folder
/// comes to where the user wants it: the report of [`junit_file`], the witnesses of [`witness_folder`].
///
/// # Errors
/// One sentence, if there is no kernel, or the guest died.
pub(crate) fn run_in_guest(runs: usize, junit: Option<&Path>, witness: &Path) -> Result<u8, String> {
    let mut say = |line: &str| {
        let _gone = writeln!(io::stderr(), "{line}");
    };
    let kernel = fairway_uml::kernel(&mut say).map_err(|error| error.to_string())?;
    for missing in &kernel.missing {
        say(&format!("note: {missing}"));
    }
    let text = |error: io::Error| error.to_string();
    let out = Folder::new().map_err(|error| format!("a folder for the guest's files: {error}"))?;
    let mut env: Vec<_> = std::env::vars_os().collect();
    env.push((IN_GUEST.into(), "1".into()));
    let guest = Guest {
        kernel: kernel.path,
        program: std::env::current_exe().map_err(text)?,
        args: std::env::args_os().skip(1).collect(),
        env,
        cwd: std::env::current_dir().map_err(text)?,
        out: out.0.clone(),
        memory_mib: MEMORY_MIB,
        timeout: PER_RUN * u32::try_from(runs.max(1)).unwrap_or(u32::MAX),
    };
    let ended = fairway_uml::run(&guest).map_err(|error| error.to_string())?;
    if let Some(junit) = junit
        && let Ok(report) = std::fs::read(out.0.join(JUNIT))
    {
        std::fs::write(junit, report).map_err(|error| format!("{}: {error}", junit.display()))?;
    }
    let saved = out.0.join(WITNESS);
    if saved.is_dir() {
        copy(&saved, witness).map_err(|error| format!("{}: {error}", witness.display()))?;
    }
    match ended {
        Ended::Exit(status) => Ok(status),
        Ended::Timeout => Err(format!("the guest did not end within {:?}", guest.timeout)),
        Ended::Died(last) => Err(format!("the guest's kernel died:\n{last}")),
    }
}

/// A folder for one guest; gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        for number in 0..1000 {
            let path = std::env::temp_dir().join(format!("fairway-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Folder(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in a folder for temporary files harms nobody.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Where the JUnit report is written: inside a guest only one folder leads out.
pub(crate) fn junit_file(asked: &Path) -> PathBuf {
    if in_guest() { Path::new(fairway_uml::OUT).join(JUNIT) } else { asked.to_path_buf() }
}

/// Where witnesses are saved.
pub(crate) fn witness_folder(asked: &Path) -> PathBuf {
    if in_guest() { Path::new(fairway_uml::OUT).join(WITNESS) } else { asked.to_path_buf() }
}
