//! `fairway check`, and finding and reading scenario files for every command.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use fairway_scenario::{FlagError, Scenario, render_all};

use crate::USAGE;

/// Options of `fairway check`.
#[derive(Args)]
pub(crate) struct Check {
    /// Scenario files, or folders.
    #[arg(required = true, value_name = "FILE|FOLDER")]
    paths: Vec<PathBuf>,
}

impl Check {
    /// Reads everything and returns the exit status: 0, or 2 if a file is wrong.
    pub(crate) fn run(self) -> u8 {
        let files = match scenario_files(&self.paths) {
            Ok(files) => files,
            Err(message) => {
                let _gone = writeln!(io::stderr(), "fairway: {message}");
                return USAGE;
            }
        };
        let mut status = 0;
        for file in files {
            match load(&file) {
                Ok(scenario) => {
                    let _gone = writeln!(
                        io::stdout(),
                        "{}: ok: {} ({} steps)",
                        file.display(),
                        scenario.name,
                        scenario.steps.len()
                    );
                }
                Err(text) => {
                    status = USAGE;
                    let _gone = writeln!(io::stderr(), "{text}");
                }
            }
        }
        status
    }
}

/// Reads a scenario and its flags; the error is the rendered diagnostics.
pub(crate) fn load(file: &Path) -> Result<Scenario, String> {
    let colour = io::stderr().is_terminal();
    let scenario = fairway_scenario::load(file).map_err(|wrong| render_all(&wrong, colour))?;
    let wrong = scenario.check_flags(&mut |node, flags| match crate::flags::parse(node, flags) {
        Ok(_) => vec![],
        Err(errors) => errors
            .into_iter()
            .map(|e| FlagError { index: e.index.unwrap_or(flags.len()), message: e.message })
            .collect(),
    });
    if wrong.is_empty() { Ok(scenario) } else { Err(render_all(&wrong, colour)) }
}

/// The scenario files among the paths. A folder is searched; a YAML file in it without top-level `steps:` is something
/// else (a manifest).
pub(crate) fn scenario_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut files = vec![];
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            search(path, &mut files).map_err(|e| format!("{}: {e}", path.display()))?;
            if files.len() == before {
                return Err(format!("{}: no scenario file in this folder", path.display()));
            }
        } else if path.exists() {
            files.push(path.clone());
        } else {
            return Err(format!("{}: no such file or folder", path.display()));
        }
    }
    Ok(files)
}

fn search(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            search(&entry, files)?;
        } else if entry.extension().is_some_and(|e| e == "yaml" || e == "yml")
            && std::fs::read_to_string(&entry)?.lines().any(|l| l.starts_with("steps:"))
        {
            files.push(entry);
        }
    }
    Ok(())
}
