//! `fairway cni-install`: puts CNI plugins where the container runtime looks for them. In an image it also answers to
//! the name `cni-install`, as kube-router's does.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, process};

use clap::{Args, Parser};

/// Copy CNI plugins to the node, where it has none of that name.
#[derive(Args)]
pub(crate) struct CniInstall {
    /// Folder of the plugins in the image.
    #[arg(long, value_name = "FOLDER", default_value = "/usr/libexec/cni")]
    from: PathBuf,
    /// Folder in which the container runtime looks for them.
    #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin")]
    to: PathBuf,
    /// Also replace those that are there.
    #[arg(long)]
    replace: bool,
}

/// Copy CNI plugins to the node, where it has none of that name.
#[derive(Parser)]
#[command(name = "cni-install", version)]
struct Alone {
    #[command(flatten)]
    options: CniInstall,
}

/// What became of one plugin.
enum Done {
    Copied,
    Kept,
}

/// As `cni-install`.
pub(crate) fn alone() -> u8 {
    Alone::parse().options.run()
}

impl CniInstall {
    /// Copies. Exit status 0; 1 if one could not be copied; the others are copied nevertheless.
    pub(crate) fn run(self) -> u8 {
        let mut status = 0;
        let plugins = match plugins(&self.from) {
            Ok(plugins) if plugins.is_empty() => {
                return failed(&format!("{}: there is no plugin in it", self.from.display()));
            }
            Ok(plugins) => plugins,
            Err(error) => return failed(&format!("{}: {error}", self.from.display())),
        };
        for (name, source) in plugins {
            let target = self.to.join(&name);
            match copy(&source, &target, self.replace) {
                Ok(Done::Copied) => say(&format!("{}: copied", target.display())),
                Ok(Done::Kept) => say(&format!("{}: is there already", target.display())),
                Err(error) => status = failed(&format!("{}: {error}", target.display())),
            }
        }
        status
    }
}

fn say(line: &str) {
    // The plugins are what matters.
    let _gone = writeln!(io::stdout(), "{line}");
}

fn failed(reason: &str) -> u8 {
    let _gone = writeln!(io::stderr(), "cni-install: {reason}");
    1
}

/// The files of a folder, by name.
fn plugins(folder: &Path) -> io::Result<Vec<(std::ffi::OsString, PathBuf)>> {
    let mut plugins = vec![];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().is_file() {
            plugins.push((entry.file_name(), entry.path()));
        }
    }
    plugins.sort();
    Ok(plugins)
}

/// Copies one file in one step: whoever runs it meanwhile has the old one or the new one.
fn copy(source: &Path, target: &Path, replace: bool) -> io::Result<Done> {
    if target.exists() && !replace {
        return Ok(Done::Kept);
    }
    let name = target.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let part = target.with_file_name(format!(".{name}.{}", process::id()));
    let copied = fs::copy(source, &part)
        .and_then(|_| fs::set_permissions(&part, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::File::open(&part)?.sync_all())
        .and_then(|()| fs::rename(&part, target));
    if copied.is_err() {
        // It may not even have been made.
        let _absent = fs::remove_file(&part);
    }
    copied.map(|()| Done::Copied)
}
