//! Directories that go away again, even when their owner was killed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

const PREFIX: &str = "fairway-uml.";

/// A directory that ends with this value; it is locked while its owner lives.
pub(crate) struct TempDir {
    path: PathBuf,
    _lock: File,
}

impl TempDir {
    /// Makes one in `parent`, and removes those there whose owners did not live to do it.
    pub(crate) fn new_in(parent: &Path) -> io::Result<TempDir> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep(parent);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{PREFIX}{}.{count}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    let lock = File::open(&path)?;
                    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                    return Ok(TempDir { path, _lock: lock });
                }
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Not there any more, or not ours to remove: nobody is left to tell.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes directories that nobody holds. A young one may be not locked yet.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let old = || {
            let changed = entry.metadata().and_then(|data| data.modified()).ok();
            changed.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > Duration::from_secs(60))
        };
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && old()
            && let Ok(dir) = File::open(entry.path())
            && flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            // Somebody else's directory stays: the permission is missing.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gone_with_its_owner_and_swept_when_old() {
        let outer = TempDir::new_in(&std::env::temp_dir()).unwrap();
        let orphan = outer.path().join(format!("{PREFIX}1.0"));
        let young = outer.path().join(format!("{PREFIX}1.1"));
        fs::create_dir(&orphan).unwrap();
        fs::create_dir(&young).unwrap();
        let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        File::open(&orphan).unwrap().set_modified(hour_ago).unwrap();
        let inner = TempDir::new_in(outer.path()).unwrap();
        File::open(inner.path()).unwrap().set_modified(hour_ago).unwrap();
        sweep(outer.path());
        assert!(!orphan.exists() && young.exists() && inner.path().exists());
        let path = inner.path().to_owned();
        drop(inner);
        assert!(!path.exists());
    }
}
