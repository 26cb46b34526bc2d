//! Guests, started by the binary umlrun as a user would. They need a kernel in the cache and do not build one.

// The helpers of these tests are outside the functions with #[test].
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nobody, by number because that is what a name resolves to.
const NOBODY: u32 = 65534;

/// A directory for one test that an ordinary user may write, with copies of umlrun and the kernel that he may read.
struct Lab {
    dir: PathBuf,
}

impl Drop for Lab {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

impl Lab {
    /// Nothing, and a sentence, when there is no kernel.
    fn new(name: &str) -> Option<Lab> {
        let Some(kernel) = fairway_uml::cached() else {
            eprintln!("skipped: no lab kernel in the cache, `cargo run -p fairway-uml -- true` builds one");
            return None;
        };
        let dir = std::env::temp_dir().join(format!("uml-test.{}.{name}", std::process::id()));
        fs::create_dir_all(dir.join("out")).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_umlrun"), dir.join("umlrun")).unwrap();
        // Debian's kernel is known by its name.
        fs::copy(&kernel.path, dir.join(kernel.path.file_name().unwrap())).unwrap();
        let lab = Lab { dir };
        for name in ["umlrun", kernel.path.file_name().unwrap().to_str().unwrap()] {
            fs::set_permissions(lab.dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        if root() {
            chown(lab.out(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Some(lab)
    }

    fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// umlrun with these options and a script, as an ordinary user.
    fn command(&self, options: &[&str], script: &str) -> Command {
        let umlrun = self.dir.join("umlrun");
        let mut command = if root() {
            let id = NOBODY.to_string();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(umlrun);
            command
        } else {
            Command::new(umlrun)
        };
        let names = fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap().file_name());
        let kernel = names.into_iter().find(|name| name == "linux" || name == "linux.uml");
        let kernel = self.dir.join(kernel.unwrap_or_else(|| "linux".into()));
        command.args(options).arg("-o").arg(self.out()).args(["--", "sh", "-c", script]);
        command.env("FAIRWAY_UML_KERNEL", kernel).current_dir("/").stdin(Stdio::null());
        // Outputs and temporary files of parallel tests do not meet.
        command.env("TMPDIR", self.out());
        command
    }

    fn run(&self, script: &str) -> Output {
        self.command(&[], script).output().unwrap()
    }

    /// How many host processes belong to this test's guests.
    fn processes(&self) -> usize {
        let word = format!("uml_dir={}", self.out().canonicalize().unwrap().display());
        let proc = fs::read_dir("/proc").unwrap().flatten();
        let lines = proc.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&word)).count()
    }

    /// Waits until the guest's kernel is there, or gone.
    fn wait_for_processes(&self, present: bool) {
        let start = Instant::now();
        while (self.processes() > 0) != present {
            assert!(start.elapsed() < Duration::from_secs(10), "present={present}: {}", self.processes());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn status_and_both_outputs_pass_through() {
    let Some(lab) = Lab::new("status") else { return };
    let output = lab.run("echo to out; echo to err >&2; printf 'no newline'; exit 7");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(text(&output.stdout), "to out\nno newline");
    assert!(text(&output.stderr).ends_with("to err\n"), "{output:?}");
    assert_eq!(fs::read_to_string(lab.out().join("rc")).unwrap(), "7\n");
    assert!(fs::read_to_string(lab.out().join("dmesg")).unwrap().contains("Linux version"));
    assert!(!lab.out().join("job").exists());

    assert_eq!(lab.run("kill -9 $$").status.code(), Some(128 + 9));
    assert_eq!(lab.run("exec /nowhere/to/be/found").status.code(), Some(127));
}

#[test]
fn output_arrives_whole_and_as_it_was() {
    let Some(lab) = Lab::new("whole") else { return };
    let output = lab.run("seq 1 100000; printf '\\000\\377\\r\\n\\t\\004'; (sleep 100; echo late) & echo left >&2");
    let mut wanted: Vec<u8> = (1..=100_000).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    wanted.extend(b"\x00\xff\r\n\t\x04");
    assert!(output.stdout == wanted, "{} bytes, not {}", output.stdout.len(), wanted.len());
    assert!(text(&output.stderr).ends_with("left\n"));
}

#[test]
fn environment_directory_and_arguments() {
    let Some(lab) = Lab::new("env") else { return };
    let mut command = lab.command(&[], r#"pwd; echo "$GREETING"; echo "${FAIRWAY_UML_OUT-unset}"; echo "$0|$1|$2""#);
    let output = command.args(["a b", "'\"", "\n"]).env("GREETING", "two\nlines").current_dir("/usr").output().unwrap();
    assert_eq!(text(&output.stdout), "/usr\ntwo\nlines\nunset\na b|'\"|\n\n", "{output:?}");
}

#[test]
fn an_ordinary_user_is_root_of_a_whole_system() {
    let Some(lab) = Lab::new("root") else { return };
    let script = "id -u; ls -d /proc/self /sys/class /dev/pts /dev/null /dev/fd/0 /run/netns /mnt/out; hostname; \
                  grep -c lo: /proc/net/dev; cat /sys/class/net/lo/flags; mount -t tmpfs none /media && echo mounted";
    let output = lab.run(script);
    let wanted =
        "0\n/dev/fd/0\n/dev/null\n/dev/pts\n/mnt/out\n/proc/self\n/run/netns\n/sys/class\numl\n1\n0x9\nmounted\n";
    assert_eq!(text(&output.stdout), wanted, "{output:?}");
}

#[test]
fn only_the_output_directory_reaches_the_host() {
    let Some(lab) = Lab::new("writes") else { return };
    let name = format!("uml-test-was-here.{}", std::process::id());
    let in_lab = lab.dir.join(&name).display().to_string();
    let script = format!("touch /{name} /var/{name} {in_lab} && ls /{name} && echo kept > /mnt/out/{name}");
    let output = lab.run(&script);
    assert_eq!(text(&output.stdout), format!("/{name}\n"), "{output:?}");
    for path in [Path::new("/").join(&name), Path::new("/var").join(&name), in_lab.into()] {
        assert!(!path.exists(), "{}", path.display());
    }
    assert_eq!(fs::read_to_string(lab.out().join(name)).unwrap(), "kept\n");
}

#[test]
fn a_timeout_ends_everything() {
    let Some(lab) = Lab::new("timeout") else { return };
    let start = Instant::now();
    let script = "echo started; sleep 1000 & while :; do :; done";
    let output = lab.command(&["-t", "3"], script).output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(text(&output.stdout), "started\n");
    lab.wait_for_processes(false);
    let left: Vec<_> = fs::read_dir(lab.out()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_dying_guest_says_why() {
    let Some(lab) = Lab::new("dies") else { return };
    let output = lab.run("echo before; sleep 0.2; echo c > /proc/sysrq-trigger; sleep 10");
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert_eq!(text(&output.stdout), "before\n");
    assert!(text(&output.stderr).contains("Kernel panic"), "{output:?}");
    lab.wait_for_processes(false);
}

#[test]
fn the_guest_dies_with_its_starter() {
    let Some(lab) = Lab::new("starter") else { return };
    let mut child = lab.command(&[], "sleep 1000").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    lab.wait_for_processes(true);
    std::thread::sleep(Duration::from_millis(500));
    child.kill().unwrap();
    child.wait().unwrap();
    lab.wait_for_processes(false);
}
