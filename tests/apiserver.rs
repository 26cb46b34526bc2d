//! `fairway apiserver` as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairway"));
    command.arg("apiserver").args(args);
    command
}

#[test]
fn it_serves_what_was_applied_and_ends_when_asked() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("apiserver-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let config = folder.join("config");
    let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/seed/mconnect.yaml");
    let config_text = config.to_str().expect("UTF-8");
    let args =
        ["--listen", "127.0.0.1:0", "--apply", seed, "--write-kubeconfig", config_text, "--misbehave", "slow=1ms"];
    let mut child = command(&args).stdout(Stdio::piped()).spawn().expect("fairway apiserver");
    let out = BufReader::new(child.stdout.take().expect("stdout"));
    let mut process = Process { child, out };
    let mut lines = vec![];
    let address = loop {
        let mut line = String::new();
        assert_ne!(process.out.read_line(&mut line).expect("a line"), 0, "it ended: {lines:?}");
        match line.trim().strip_prefix("serving on http://") {
            Some(address) => break address.to_string(),
            None => lines.push(line),
        }
    };
    assert!(lines.contains(&"service/mconnect created\n".to_string()), "{lines:?}");
    let written = std::fs::read_to_string(&config).expect("a kubeconfig");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    assert!(written.contains(&format!("http://{address}")), "{written}");
    let mut stream = TcpStream::connect(&address).expect("connect");
    let request = "GET /api/v1/namespaces/default/services/mconnect HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"clusterIP\""), "{answer}");
    // A watch under way does not hold up the end.
    let mut watch = TcpStream::connect(&address).expect("connect");
    watch.write_all(b"GET /api/v1/services?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
    watch.read_exact(&mut [0; 9]).expect("its beginning");
    watch.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let pid = rustix::process::Pid::from_child(&process.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    assert_eq!(process.child.wait().expect("an end").code(), Some(0));
    let mut rest = String::new();
    watch.read_to_string(&mut rest).expect("an end in good order");
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest}");
}

#[test]
fn what_is_wrong_is_said() {
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--misbehave", "late=1"], 2, "misbehaviour \"late=1\" is unknown"),
        (&["--listen", "nowhere"], 2, "--listen"),
        (&["--listen", "127.0.0.1:0", "--apply", "/nowhere.yaml"], 2, "/nowhere.yaml: No such file"),
        (&["--listen", "192.0.2.1:1"], 1, "cannot listen on 192.0.2.1:1"),
    ];
    for (args, code, text) in cases {
        let output = command(args).output().expect("fairway apiserver");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(text), "{args:?}: {said}");
    }
}
