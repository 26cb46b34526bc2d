//! What can go wrong on the host's side.

use std::io;
use std::path::PathBuf;

/// Why there is no kernel, or why a guest was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of the host's system failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, as a verb and its object.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Neither `HOME` nor a variable that replaces it says where the cache is.
    #[error("no cache directory: set FAIRWAY_CACHE, XDG_CACHE_HOME or HOME")]
    NoCache,
    /// A tool that the build needs is not there.
    #[error("cannot build the lab kernel: no {} in PATH", .0.join(", "))]
    NoTools(Vec<&'static str>),
    /// The package lists name no kernel source.
    #[error("cannot build the lab kernel: apt knows no package linux-source-* (try apt-get update)")]
    NoSourcePackage,
    /// A step of the build failed.
    #[error("cannot build the lab kernel: {step} failed, see {}", .log.display())]
    Build {
        /// The command.
        step: String,
        /// What it and the steps before it printed.
        log: PathBuf,
    },
    /// The source does not offer an option of lab.config, or not under these conditions.
    #[error("cannot build the lab kernel: Linux {version} does not take {} of lab.config", .options.join(", "))]
    Config {
        /// The version of the source.
        version: String,
        /// The lines of lab.config that are not in the result.
        options: Vec<String>,
    },
    /// Nothing to run: not cached, not built, not packaged.
    #[error(
        "no lab kernel: install the package user-mode-linux, or what builds one: make gcc flex bison bc xz-utils \
         binutils dpkg apt ({why})"
    )]
    NoKernel {
        /// Why it could not be built.
        why: Box<Error>,
    },
    /// `FAIRWAY_UML_KERNEL` names something else than a file.
    #[error("FAIRWAY_UML_KERNEL names no kernel: {}", .0.display())]
    NotAKernel(PathBuf),
    /// A kernel command line cannot carry this path.
    #[error("the lab cannot use the path {0:?}: only letters, digits and / . _ + - @ : = ~ % may be in it")]
    Path(PathBuf),
    /// An argument or a variable with a NUL byte.
    #[error("an argument, a variable or a directory of the guest's program contains a NUL byte")]
    Nul,
}

impl Error {
    /// For `map_err`: `what` is a verb and its object.
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source: source.into() }
    }
}
