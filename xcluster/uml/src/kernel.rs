//! Which kernel the lab runs, and where it is kept.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use crate::{Error, build, config};

/// A kernel for the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The executable.
    pub path: PathBuf,
    /// Where it is from.
    pub source: Source,
    /// What it lacks, in sentences for humans, so that what needs it can be skipped.
    pub missing: Vec<String>,
}

/// Where a [`Kernel`] is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Ours, with everything in lab.config.
    Built,
    /// The distribution's, with less.
    Packaged,
}

/// What the kernel of the package user-mode-linux lacks.
const PACKAGED_LACKS: [&str; 3] = [
    "nftables has only the family bridge, so masquerading and the policy firewall are not there.",
    "Tunnels cannot be encapsulated in UDP (FOU, GUE) on a route's interface; plain IPIP and IPv6 tunnels can.",
    "Time travel, the skipping of idle time, is ignored.",
];

/// The name of the kernel in the package user-mode-linux.
const PACKAGED: &str = "linux.uml";

impl Kernel {
    fn built(path: PathBuf) -> Kernel {
        Kernel { path, source: Source::Built, missing: Vec::new() }
    }

    fn packaged(path: PathBuf) -> Kernel {
        let missing = PACKAGED_LACKS.into_iter().map(str::to_owned).collect();
        Kernel { path, source: Source::Packaged, missing }
    }
}

/// Finds the kernel in the cache, else builds it, else takes the distribution's.
///
/// `progress` gets a line for each step, and while the compiler runs, how far it is. A build takes about five minutes
/// and 2 GB. The variable `FAIRWAY_UML_KERNEL` names a kernel to take instead.
pub fn kernel(progress: &mut dyn FnMut(&str)) -> Result<Kernel, Error> {
    if let Some(kernel) = named()? {
        return Ok(kernel);
    }
    let cache = Cache::of(|name| std::env::var_os(name))?;
    let package = build::package();
    if let Some(path) = cache.find(package.as_ref().ok().map(|package| package.version.as_str())) {
        return Ok(Kernel::built(path));
    }
    let why = match package.and_then(|package| build_in(&cache, &package, progress)) {
        Ok(path) => return Ok(Kernel::built(path)),
        Err(why) => why,
    };
    // A kernel of an older source is better than one with less in it.
    if let Some(path) = cache.find(None) {
        progress(&format!("{why}; taking {}", path.display()));
        return Ok(Kernel::built(path));
    }
    match in_path(PACKAGED).or_else(|| executable(Path::new("/usr/bin").join(PACKAGED))) {
        Some(path) => {
            progress(&format!("{why}; taking the packaged {}, which has less in it", path.display()));
            Ok(Kernel::packaged(path))
        }
        None => Err(Error::NoKernel { why: Box::new(why) }),
    }
}

/// The kernel that is there without building one; the distribution's does not count.
pub fn cached() -> Option<Kernel> {
    if let Ok(Some(kernel)) = named() {
        return Some(kernel);
    }
    let cache = Cache::of(|name| std::env::var_os(name)).ok()?;
    let version = build::package().ok().map(|package| package.version);
    cache.find(version.as_deref()).or_else(|| cache.find(None)).map(Kernel::built)
}

/// The kernel that the environment names.
fn named() -> Result<Option<Kernel>, Error> {
    let Some(path) = std::env::var_os("FAIRWAY_UML_KERNEL").filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    // The guest's kernel is started in a directory of its own.
    let path = path.canonicalize().ok().and_then(executable).ok_or(Error::NotAKernel(path))?;
    let packaged = path.file_name().is_some_and(|name| name == PACKAGED);
    Ok(Some(if packaged { Kernel::packaged(path) } else { Kernel::built(path) }))
}

/// Builds the kernel unless somebody else just did.
fn build_in(cache: &Cache, package: &build::Package, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, Error> {
    build::tools()?;
    fs::create_dir_all(&cache.root).map_err(Error::io(format!("make {}", cache.root.display())))?;
    let lock = cache.root.join("lock");
    let lock = File::create(&lock).map_err(Error::io(format!("make {}", lock.display())))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        progress("somebody else builds the lab kernel, waiting");
        flock(&lock, FlockOperation::LockExclusive).map_err(Error::io("wait for another build"))?;
        if let Some(path) = cache.find(Some(&package.version)) {
            return Ok(path);
        }
    }
    build::build(&cache.root, package, &|version| cache.place(version), progress)
}

/// The directory with the kernels, each in one named after its configuration and version.
struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Where it is, by the environment.
    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Result<Cache, Error> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let dir = set("FAIRWAY_CACHE")
            .or_else(|| Some(set("XDG_CACHE_HOME")?.join("fairway")))
            .or_else(|| Some(set("HOME")?.join(".cache/fairway")));
        let dir = dir.ok_or(Error::NoCache)?;
        let root = std::path::absolute(&dir).map_err(Error::io(format!("find {}", dir.display())))?.join("uml");
        Ok(Cache { root })
    }

    fn prefix() -> String {
        format!("{:016x}-", config::hash(config::LAB))
    }

    /// Where the kernel of a version belongs.
    fn place(&self, version: &str) -> PathBuf {
        self.root.join(Cache::prefix() + version).join("linux")
    }

    /// The kernel of this version, or, when the version is not known, the newest with our configuration.
    fn find(&self, version: Option<&str>) -> Option<PathBuf> {
        if let Some(version) = version {
            return executable(self.place(version));
        }
        let dirs = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let ours = dirs.filter(|dir| dir.file_name().to_string_lossy().starts_with(&Cache::prefix()));
        let kernels = ours.filter_map(|dir| executable(dir.path().join("linux")));
        let made = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        kernels.max_by_key(made)
    }
}

/// The program of this name in `PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).filter(|dir| dir.is_absolute()).find_map(|dir| executable(dir.join(name)))
}

fn executable(path: PathBuf) -> Option<PathBuf> {
    let data = path.metadata().ok()?;
    (data.is_file() && data.permissions().mode() & 0o111 != 0).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::temp::TempDir;

    fn root(variables: &[(&str, &str)]) -> Result<PathBuf, Error> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Cache::of(get).map(|cache| cache.root)
    }

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let (home, xdg, own) = (("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("FAIRWAY_CACHE", "/f"));
        assert_eq!(root(&[home]).unwrap(), Path::new("/h/.cache/fairway/uml"));
        assert_eq!(root(&[home, xdg]).unwrap(), Path::new("/x/fairway/uml"));
        assert_eq!(root(&[home, xdg, own]).unwrap(), Path::new("/f/uml"));
        assert_eq!(root(&[home, ("XDG_CACHE_HOME", "")]).unwrap(), Path::new("/h/.cache/fairway/uml"));
        assert!(matches!(root(&[]), Err(Error::NoCache)));
    }

    #[test]
    fn a_kernel_is_named_after_configuration_and_version() {
        let temp = TempDir::new_in(&std::env::temp_dir()).unwrap();
        let cache = Cache { root: temp.path().to_owned() };
        let put = |path: &Path, age: u64| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = File::create(path).unwrap();
            file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        let place = cache.place("6.12.1");
        let name = place.parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert_eq!(name, format!("{:016x}-6.12.1", config::hash(config::LAB)));
        assert_eq!(cache.find(None), None);

        put(&place, 10);
        put(&cache.place("6.12.2"), 20);
        put(&cache.root.join("0000000000000000-6.12.3/linux"), 0);
        assert_eq!(cache.find(Some("6.12.2")), Some(cache.place("6.12.2")));
        assert_eq!(cache.find(Some("6.12.3")), None);
        assert_eq!(cache.find(None), Some(place));
    }
}
