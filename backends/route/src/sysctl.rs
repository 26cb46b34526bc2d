//! Kernel parameters: files below `/proc/sys`, those of the network in the namespace of the calling thread.

use std::fs;
use std::io;

use fairway_desired::{Op, Outcome, Sysctl, Table};

use crate::backend::Known;
use crate::wire::errno::{EAGAIN, EBUSY, EINVAL, EIO, ENOENT};

/// The file of a parameter; `None` for a key that would leave `/proc/sys`.
fn file(path: &str) -> Option<String> {
    let fine = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    fine.then(|| format!("/proc/sys/{path}"))
}

fn read(path: &str) -> io::Result<i64> {
    let file = file(path).ok_or(io::ErrorKind::InvalidInput)?;
    let text = fs::read_to_string(file)?;
    text.trim().parse().map_err(io::Error::other)
}

/// The value of a kernel parameter in the namespace of the calling thread, if it is there and a number.
pub fn sysctl_value(path: &str) -> Option<i64> {
    read(path).ok()
}

pub(crate) fn observe(known: &Known) -> Table<Sysctl> {
    known.sysctls.iter().filter_map(|path| Some((path.clone(), read(path).ok()?))).collect()
}

pub(crate) fn apply(known: &mut Known, op: &Op<Sysctl>) -> Outcome {
    let Some(file) = file(op.key()) else { return Outcome::Refused(EINVAL) };
    match op {
        Op::Put(path, value) => {
            // Some parameters do work whenever they are written.
            if read(path).ok() != Some(*value)
                && let Err(error) = fs::write(file, value.to_string())
            {
                return match error.raw_os_error() {
                    Some(EBUSY | EAGAIN) => Outcome::Busy,
                    errno => Outcome::Refused(errno.unwrap_or(EIO)),
                };
            }
            known.sysctls.insert(path.clone());
            Outcome::Done
        }
        Op::Del(_) => match fs::metadata(file) {
            Ok(_) => Outcome::Refused(EINVAL),
            Err(error) if error.raw_os_error() == Some(ENOENT) => Outcome::Gone,
            Err(error) => Outcome::Refused(error.raw_os_error().unwrap_or(EIO)),
        },
    }
}
