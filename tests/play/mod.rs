//! Shell scripts in namespaces of their own, which take everything with them.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// What is missing here, if anything is.
pub(crate) fn missing() -> Option<&'static str> {
    let works = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !works("unshare", &["-rn", "true"]) {
        return Some("no namespaces here");
    }
    if !works("kubectl", &["version", "--client"]) {
        return Some("no kubectl");
    }
    (!works("gobgpd", &["--version"])).then_some("no gobgpd")
}

/// Runs a shell script in namespaces of its own. Its first argument is the program, its second an empty folder.
pub(crate) fn play(name: &str, script: &str) -> Output {
    let folder = Folder(std::env::temp_dir().join(format!("fairway-node-{name}-{}", std::process::id())));
    let _none = std::fs::remove_dir_all(&folder.0);
    std::fs::create_dir(&folder.0).expect("a folder");
    let output = Command::new("unshare")
        .args([
            "-rn",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "timeout",
            "60",
            "bash",
            "-euo",
            "pipefail",
            "-c",
        ])
        .args([script, "script", env!("CARGO_BIN_EXE_fairway")])
        .arg(&folder.0)
        .stdin(Stdio::null())
        .output()
        .expect("unshare is there");
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

/// What a script printed between `== name` and the next such line.
pub(crate) fn part(text: &str, name: &str) -> String {
    let rest = text.split_once(&format!("== {name}\n")).expect("the script came here").1;
    rest.split("\n== ").next().unwrap_or_default().to_string()
}
