//! Building the kernel from the distribution's source package, as an ordinary user.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kernel::in_path;
use crate::temp::TempDir;
use crate::{Error, config};

/// What the build runs.
const TOOLS: [&str; 9] = ["make", "gcc", "flex", "bison", "bc", "tar", "xz", "dpkg", "apt-get"];

/// The source that lab.config is made for.
const PREFERRED: &str = "linux-source-6.12";

/// About how many files the compiler gets.
const FILES: u32 = 870;

/// A package with the kernel's source.
#[derive(Debug, PartialEq)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// The upstream version, such as 6.12.3.
    pub(crate) version: String,
}

/// The package to build from, by the lists that apt has.
pub(crate) fn package() -> Result<Package, Error> {
    let policy = |name: &str| {
        let version = candidate(&apt_cache(&["policy", name])?)?;
        Some(Package { name: name.to_owned(), version })
    };
    let newest = || policy(&dependency(&apt_cache(&["depends", "linux-source"])?)?);
    policy(PREFERRED).or_else(newest).ok_or(Error::NoSourcePackage)
}

fn apt_cache(args: &[&str]) -> Option<String> {
    let output = Command::new("apt-cache").args(args).env("LC_ALL", "C").stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The upstream version of the candidate in what `apt-cache policy` prints.
fn candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| upstream(version).to_owned())
}

/// The package behind the metapackage in what `apt-cache depends` prints.
fn dependency(depends: &str) -> Option<String> {
    let mut lines = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    lines.find(|name| name.starts_with("linux-source-")).map(str::to_owned)
}

/// A Debian version without epoch and revision.
fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, version)| version);
    version.rsplit_once('-').map_or(version, |(version, _)| version)
}

/// The upstream version in the name of a package's file, where the epoch's colon is written %3a.
fn version_of_deb(name: &str) -> Option<String> {
    Some(upstream(&name.strip_suffix(".deb")?.split('_').nth(1)?.replace("%3a", ":")).to_owned())
}

/// Whether everything is there that the build runs.
pub(crate) fn tools() -> Result<(), Error> {
    let missing: Vec<_> = TOOLS.into_iter().chain(["strip"]).filter(|tool| in_path(tool).is_none()).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::NoTools(missing)) }
}

/// Builds in a directory below `root` and moves the kernel to its place. The caller holds the lock.
pub(crate) fn build(
    root: &Path,
    package: &Package,
    place: &dyn Fn(&str) -> PathBuf,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, Error> {
    let temp = TempDir::new_in(root).map_err(Error::io("make a directory to build in"))?;
    let dir = temp.path();
    let log = root.join("build.log");
    let file = File::create(&log).map_err(Error::io(format!("make {}", log.display())))?;
    let mut steps = Steps { dir, log, file };

    progress(&format!("downloading {} ({})", package.name, package.version));
    steps.run("apt-get", &["download", &package.name])?;
    let deb = only(dir, "linux-source-", ".deb").ok_or_else(|| steps.failed("apt-get download"))?;
    let version = version_of_deb(&deb).unwrap_or_else(|| package.version.clone());

    progress(&format!("unpacking Linux {version}"));
    steps.run("dpkg", &["-x", &deb, "package"])?;
    let archive = only(&dir.join("package/usr/src"), "linux-source-", ".tar.xz");
    let archive = archive.ok_or_else(|| steps.failed("dpkg -x"))?;
    let tree = archive.trim_end_matches(".tar.xz");
    steps.run("tar", &["-xf", &format!("package/usr/src/{archive}")])?;

    make_room(&dir.join(tree).join(OFFSETS))?;

    progress("configuring");
    let wanted = dir.join("lab.config");
    fs::write(&wanted, config::LAB).map_err(Error::io(format!("write {}", wanted.display())))?;
    let allconfig = format!("KCONFIG_ALLCONFIG={}", wanted.display());
    steps.run("make", &["-C", tree, "ARCH=um", "O=../object", &allconfig, "allnoconfig"])?;
    let got = fs::read_to_string(dir.join("object/.config")).map_err(Error::io("read the kernel's .config"))?;
    let options = config::refused(config::LAB, &got);
    if !options.is_empty() {
        return Err(Error::Config { version, options });
    }

    let jobs = format!("-j{}", std::thread::available_parallelism().map_or(1, usize::from));
    progress(&format!("compiling about {FILES} files with {jobs}"));
    steps.compile(&["-C", tree, "ARCH=um", "O=../object", &jobs, "linux"], progress)?;
    steps.run("strip", &["-o", "linux", "object/linux"])?;

    let place = place(&version);
    let parent = place.parent().unwrap_or(root);
    fs::create_dir_all(parent).map_err(Error::io(format!("make {}", parent.display())))?;
    fs::rename(dir.join("linux"), &place).map_err(Error::io(format!("move the kernel to {}", place.display())))?;
    progress(&format!("the lab kernel is {}", place.display()));
    Ok(place)
}

/// Where a kernel says how large the registers of a process may be.
const OFFSETS: &str = "arch/x86/um/user-offsets.c";

/// Gives the registers of a process the room that they need on a processor with AMX. User-Mode Linux has room for 2696
/// bytes; where there are 11008 the host refuses to take a part of them (`ptrace(PTRACE_SETREGSET)`: `EFAULT`), and the
/// guest dies in its first process. Where there are fewer the host takes what it needs. Kernels after 6.12 ask the host
/// how many there are, and need no help.
fn make_room(file: &Path) -> Result<(), Error> {
    let Ok(text) = fs::read_to_string(file) else { return Ok(()) };
    let roomy = text.replace("DEFINE_LONGS(HOST_FP_SIZE, 2696)", "DEFINE_LONGS(HOST_FP_SIZE, 12288)");
    fs::write(file, roomy).map_err(Error::io(format!("write {}", file.display())))
}

/// The name of the file in a directory that begins and ends like this.
fn only(dir: &Path, start: &str, end: &str) -> Option<String> {
    let names = fs::read_dir(dir).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(start) && name.ends_with(end)).collect();
    names.sort();
    names.pop()
}

/// The commands of a build, all with the same directory and log.
struct Steps<'a> {
    dir: &'a Path,
    log: PathBuf,
    file: File,
}

impl Steps<'_> {
    fn failed(&self, step: &str) -> Error {
        Error::Build { step: step.to_owned(), log: self.log.clone() }
    }

    fn command(&mut self, program: &str, args: &[&str]) -> Result<Command, Error> {
        let what = || format!("write {}", self.log.display());
        writeln!(self.file, "+ {program} {}", args.join(" ")).map_err(Error::io(what()))?;
        let stderr = self.file.try_clone().map_err(Error::io(what()))?;
        let stdout = self.file.try_clone().map_err(Error::io(what()))?;
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir).env("LC_ALL", "C");
        // What an outer make says to its children is not for ours.
        for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "KBUILD_OUTPUT", "CROSS_COMPILE"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        Ok(command)
    }

    fn run(&mut self, program: &str, args: &[&str]) -> Result<(), Error> {
        let mut command = self.command(program, args)?;
        let status = command.status().map_err(Error::io(format!("run {program}")))?;
        let step = || [&[program], args].concat().join(" ");
        if status.success() { Ok(()) } else { Err(self.failed(&step())) }
    }

    /// Runs make and counts the files that it compiles.
    fn compile(&mut self, args: &[&str], progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let mut command = self.command("make", args)?;
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(Error::io("run make"))?;
        let mut count = 0_u32;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line.map_err(Error::io("read what make says"))?;
                self.file
                    .write_all(&[&line[..], b"\n"].concat())
                    .map_err(Error::io(format!("write {}", self.log.display())))?;
                if line.starts_with(b"  CC ") {
                    count += 1;
                    if count.is_multiple_of(100) {
                        progress(&format!("compiled {count} of about {FILES} files"));
                    }
                }
            }
        }
        let status = child.wait().map_err(Error::io("wait for make"))?;
        if status.success() { Ok(()) } else { Err(self.failed("make linux")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_without_epoch_and_revision() {
        let policy = "linux-source-6.12:\n  Installed: (none)\n  Candidate: 6.12.3-1~deb12u1\n  Version table:\n";
        assert_eq!(candidate(policy).as_deref(), Some("6.12.3"));
        assert_eq!(candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
        assert_eq!(version_of_deb("linux-source-6.12_6.12.3-1~deb12u1_all.deb").as_deref(), Some("6.12.3"));
        assert_eq!(version_of_deb("linux-source-6.12_1%3a6.12.3-rc1-1_all.deb").as_deref(), Some("6.12.3-rc1"));
        assert_eq!(version_of_deb("rubbish"), None);
    }

    #[test]
    fn what_the_metapackage_depends_on() {
        let depends = "linux-source\n  Depends: linux-source-6.1\n  Suggests: x\n";
        assert_eq!(dependency(depends).as_deref(), Some("linux-source-6.1"));
        assert_eq!(dependency("linux-source\n"), None);
    }
}
