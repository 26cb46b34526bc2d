//! Kernel parameters: files below `/proc/sys`, those of the network in the namespace of the calling thread.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use fairway_desired::{Op, Outcome, Sysctl, Table};

use crate::wire::errno::{EAGAIN, EBUSY, EINVAL, EIO, ENOENT};

/// The parameters, and where they are.
#[derive(Debug)]
pub(crate) struct Sysctls {
    /// `/proc/sys`, or where else that is mounted.
    pub(crate) folder: PathBuf,
    /// Those that were ever written.
    written: BTreeSet<Arc<str>>,
}

impl Default for Sysctls {
    fn default() -> Self {
        Sysctls { folder: "/proc/sys".into(), written: BTreeSet::new() }
    }
}

impl Sysctls {
    /// The file of a parameter; `None` for a key that would leave the folder.
    fn file(&self, path: &str) -> Option<PathBuf> {
        let fine = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        fine.then(|| self.folder.join(path))
    }

    fn read(&self, path: &str) -> io::Result<i64> {
        let file = self.file(path).ok_or(io::ErrorKind::InvalidInput)?;
        let text = fs::read_to_string(file)?;
        text.trim().parse().map_err(io::Error::other)
    }

    pub(crate) fn observe(&self) -> Table<Sysctl> {
        self.written.iter().filter_map(|path| Some((path.clone(), self.read(path).ok()?))).collect()
    }

    pub(crate) fn apply(&mut self, op: &Op<Sysctl>) -> Outcome {
        let Some(file) = self.file(op.key()) else { return Outcome::Refused(EINVAL) };
        match op {
            Op::Put(path, value) => {
                // Some parameters do work whenever they are written.
                if self.read(path).ok() != Some(*value)
                    && let Err(error) = fs::write(file, value.to_string())
                {
                    return match error.raw_os_error() {
                        Some(EBUSY | EAGAIN) => Outcome::Busy,
                        errno => Outcome::Refused(errno.unwrap_or(EIO)),
                    };
                }
                self.written.insert(path.clone());
                Outcome::Done
            }
            Op::Del(_) => match fs::metadata(file) {
                Ok(_) => Outcome::Refused(EINVAL),
                Err(error) if error.raw_os_error() == Some(ENOENT) => Outcome::Gone,
                Err(error) => Outcome::Refused(error.raw_os_error().unwrap_or(EIO)),
            },
        }
    }
}

/// The value of a kernel parameter in the namespace of the calling thread, if it is there and a number.
pub fn sysctl_value(path: &str) -> Option<i64> {
    Sysctls::default().read(path).ok()
}
