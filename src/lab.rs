//! The stages with a real kernel: going where they are, and making them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use fairway_lab::space::{self, Place};
use fairway_scenario::{Outcome, Software};
use fairway_uml::{Ended, Guest};

/// Tells the program that it runs in a guest, and which of its tasks it shall play.
const TASK: &str = "FAIRWAY_GUEST_TASK";
/// Tells it to show the run while it happens.
const LIVE: &str = "FAIRWAY_GUEST_LIVE";
/// Memory of a guest: a cluster of some dozen processes, and the layer that holds what it writes.
const MEMORY_MIB: u32 = 2048;
/// How long a guest may take for one scenario with one seed.
const PER_RUN: Duration = Duration::from_secs(600);

/// Names in the folder of a guest.
const SHOWN: &str = "shown";
const OUTCOME: &str = "outcome.json";
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
    /// Debian's FRR.
    Frr,
    /// Debian's ExaBGP, with what it received written to the kernel.
    Exabgp,
}

impl From<Routers> for Software {
    fn from(routers: Routers) -> Self {
        match routers {
            Routers::Fairway => Software::Fairway,
            Routers::Gobgp => Software::Gobgp,
            Routers::Bird => Software::Bird,
            Routers::Frr => Software::Frr,
            Routers::Exabgp => Software::Exabgp,
        }
    }
}

/// `fairway kernel`: the exit status is 0, or 1 if there is no kernel.
pub(crate) fn kernel() -> u8 {
    match Guests::new() {
        Ok(guests) => {
            let _gone = writeln!(io::stdout(), "{}", guests.kernel.display());
            0
        }
        Err(message) => {
            let _gone = writeln!(io::stderr(), "fairway: {message}");
            1
        }
    }
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

/// The kernel in which guests run.
pub(crate) struct Guests {
    kernel: PathBuf,
}

impl Guests {
    /// Finds or builds the kernel, telling on standard error what it does.
    ///
    /// # Errors
    /// One sentence, if there is none.
    pub(crate) fn new() -> Result<Guests, String> {
        let mut say = |line: &str| {
            let _gone = writeln!(io::stderr(), "{line}");
        };
        let kernel = fairway_uml::kernel(&mut say).map_err(|error| error.to_string())?;
        for missing in &kernel.missing {
            say(&format!("note: {missing}"));
        }
        Ok(Guests { kernel: kernel.path })
    }

    /// Plays one task of this program's arguments in a guest of its own and returns its outcome. What it shows goes to
    /// standard output while it happens (`live`), or to `out` when it is over. Witnesses come to their folder.
    ///
    /// # Errors
    /// One sentence, if the guest could not be started, died, or did not end.
    pub(crate) fn play(&self, task: usize, live: bool, out: &mut dyn Write, witness: &Path) -> Result<Outcome, String> {
        let text = |error: io::Error| error.to_string();
        let folder = Folder::new().map_err(|error| format!("a folder for the guest's files: {error}"))?;
        let mut env: Vec<_> = std::env::vars_os().collect();
        env.push((TASK.into(), task.to_string().into()));
        if live {
            env.push((LIVE.into(), "1".into()));
        }
        let guest = Guest {
            kernel: self.kernel.clone(),
            program: std::env::current_exe().map_err(text)?,
            args: std::env::args_os().skip(1).collect(),
            env,
            cwd: std::env::current_dir().map_err(text)?,
            out: folder.0.clone(),
            memory_mib: MEMORY_MIB,
            timeout: PER_RUN,
        };
        let ended = fairway_uml::run(&guest).map_err(|error| error.to_string())?;
        if let Ok(shown) = std::fs::read(folder.0.join(SHOWN)) {
            out.write_all(&shown).map_err(text)?;
        }
        let saved = folder.0.join(WITNESS);
        if saved.is_dir() {
            copy(&saved, witness).map_err(|error| format!("{}: {error}", witness.display()))?;
        }
        match ended {
            Ended::Exit(status) => {
                let outcome = std::fs::read_to_string(folder.0.join(OUTCOME))
                    .map_err(|_| format!("the guest ended with status {status} and without an outcome"))?;
                serde_json::from_str(&outcome).map_err(|error| format!("the guest's outcome: {error}"))
            }
            Ended::Timeout => Err(format!("the guest did not end within {PER_RUN:?}")),
            Ended::Died(last) => Err(format!("the guest's kernel died: {last}")),
        }
    }
}

/// What this process shall do in the guest it runs in.
pub(crate) struct Inside {
    /// Which task.
    pub(crate) task: usize,
    live: bool,
}

impl Inside {
    /// `None` outside.
    pub(crate) fn new() -> Option<Inside> {
        let task = std::env::var(TASK).ok()?.parse().ok()?;
        Some(Inside { task, live: std::env::var_os(LIVE).is_some() })
    }

    /// Where the run is shown.
    pub(crate) fn out(&self) -> io::Result<Box<dyn Write>> {
        Ok(match self.live {
            true => Box::new(io::stdout()),
            false => Box::new(std::fs::File::create(Path::new(fairway_uml::OUT).join(SHOWN))?),
        })
    }

    /// Leaves the outcome for those outside.
    pub(crate) fn leave(&self, outcome: &Outcome) -> io::Result<()> {
        let text = serde_json::to_string(outcome).map_err(io::Error::other)?;
        std::fs::write(Path::new(fairway_uml::OUT).join(OUTCOME), text)
    }
}

/// How the name of a guest's folder begins; our process number follows.
const PREFIX: &str = "fairway-guest-";

/// A folder for one guest; gone when dropped.
struct Folder(PathBuf);

/// Removes folders of processes that were killed before they could.
fn sweep(all: &Path) {
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if let Some(owner) = owner
            && !Path::new("/proc").join(owner.to_string()).exists()
        {
            // Another one may be sweeping too, or it belongs to another user.
            let _left = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Folder {
    fn new() -> io::Result<Folder> {
        let all = std::env::temp_dir();
        sweep(&all);
        for number in 0..1000 {
            let path = all.join(format!("{PREFIX}{}-{number}", std::process::id()));
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

/// Where witnesses are saved.
pub(crate) fn witness_folder(asked: &Path) -> PathBuf {
    if std::env::var_os(TASK).is_some() { Path::new(fairway_uml::OUT).join(WITNESS) } else { asked.to_path_buf() }
}
