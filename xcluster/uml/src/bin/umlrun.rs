//! Runs a program as root of a throw-away guest: `umlrun [-t secs] [-m MiB] [-o outdir] [--] program args…`
//!
//! Ends like the program; 124 after a timeout, 125 when the guest or the lab failed, 2 for wrong arguments.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use fairway_uml::{Ended, Error, Guest, Source, guest_init, is_guest_init, kernel, run};

const USAGE: &str = "usage: umlrun [-t secs] [-m MiB] [-o outdir] [--] program args...";

struct Arguments {
    timeout: u64,
    memory: u32,
    out: Option<PathBuf>,
    program: PathBuf,
    args: Vec<OsString>,
}

fn main() -> ExitCode {
    if is_guest_init() {
        guest_init()
    }
    let Some(arguments) = arguments(std::env::args_os().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let program = arguments.program.display().to_string();
    let timeout = arguments.timeout;
    match start(arguments) {
        Ok(Ended::Exit(status)) => ExitCode::from(status),
        Ok(Ended::Timeout) => {
            eprintln!("umlrun: {program}: timeout after {timeout} s");
            ExitCode::from(124)
        }
        Ok(Ended::Died(console)) => {
            eprintln!("umlrun: {program}: the guest died; its console:\n{console}");
            ExitCode::from(125)
        }
        Err(error) => {
            eprintln!("umlrun: {error}");
            ExitCode::from(125)
        }
    }
}

fn arguments(mut rest: impl Iterator<Item = OsString>) -> Option<Arguments> {
    let (mut timeout, mut memory, mut out) = (60, 512, None);
    let program = loop {
        let word = rest.next()?;
        match word.to_str() {
            Some("-t") => timeout = rest.next()?.to_str()?.parse().ok()?,
            Some("-m") => memory = rest.next()?.to_str()?.parse().ok()?,
            Some("-o") => out = Some(PathBuf::from(rest.next()?)),
            Some("--") => break rest.next()?,
            Some(option) if option.starts_with('-') => return None,
            _ => break word,
        }
    };
    Some(Arguments { timeout, memory, out, program: program.into(), args: rest.collect() })
}

fn start(arguments: Arguments) -> Result<Ended, Error> {
    let kernel = kernel(&mut |line| eprintln!("umlrun: {line}"))?;
    if kernel.source == Source::Packaged {
        kernel.missing.iter().for_each(|line| eprintln!("umlrun: not with this kernel: {line}"));
    }
    let given = arguments.out.is_some();
    let out = match arguments.out {
        Some(out) => out,
        None => fresh_directory()?,
    };
    let guest = Guest {
        kernel: kernel.path,
        program: arguments.program,
        args: arguments.args,
        env: std::env::vars_os().collect(),
        cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        out: out.clone(),
        memory_mib: arguments.memory,
        timeout: Duration::from_secs(arguments.timeout),
    };
    let ended = run(&guest);
    if !given {
        // Nobody asked for it.
        let _ = std::fs::remove_dir_all(out);
    }
    ended
}

/// A directory that nobody else has made.
fn fresh_directory() -> Result<PathBuf, Error> {
    let path = std::env::temp_dir().join(format!("umlrun-out.{}", std::process::id()));
    match std::fs::create_dir(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::Io { what: format!("make {}", path.display()), source }),
    }
}
