//! `--record`: where the recording of an agent goes.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use fairway_record::Sink;

/// Inputs that wait for the disk. With more the agent waits as well: a recording with a hole is none.
const QUEUE: usize = 4096;
/// What is not on its way to the disk after so long without anything new goes there.
const IDLE: Duration = Duration::from_millis(200);

/// A file that takes a recording. A disk that is slow holds up no keepalive: a thread of its own writes.
pub struct Recording {
    file: File,
    limit: u64,
    ended: Box<dyn FnOnce(String) + Send>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("file", &self.file).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Recording {
    /// Makes the file, which only its owner may read. The recording ends when it would be longer than `limit` octets, or
    /// cannot be written any more; `ended` is then told why, and the agent goes on.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: &Path, limit: u64, ended: Box<dyn FnOnce(String) + Send>) -> io::Result<Recording> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Recording { file, limit, ended })
    }

    /// The way in, and the thread that writes, which ends after the way in was dropped.
    pub(crate) fn start(self) -> io::Result<(Sink, JoinHandle<()>)> {
        let (frames, waiting) = sync_channel::<Vec<u8>>(QUEUE);
        let Recording { file, limit, ended } = self;
        let writer = std::thread::Builder::new().name("recording".into()).spawn(move || {
            if let Err(reason) = write(file, limit, &waiting) {
                ended(reason);
            }
        })?;
        Ok((Box::new(move |bytes| frames.send(bytes).is_ok()), writer))
    }
}

fn write(file: File, limit: u64, frames: &Receiver<Vec<u8>>) -> Result<(), String> {
    let mut out = BufWriter::new(file);
    let mut length = 0;
    let failed = |error: io::Error| error.to_string();
    loop {
        match frames.recv_timeout(IDLE) {
            Ok(bytes) => {
                length += bytes.len() as u64;
                if length > limit {
                    out.flush().map_err(failed)?;
                    return Err(format!("it has {} MiB (--record-limit)", limit >> 20));
                }
                out.write_all(&bytes).map_err(failed)?;
            }
            Err(RecvTimeoutError::Timeout) => out.flush().map_err(failed)?,
            Err(RecvTimeoutError::Disconnected) => return out.flush().map_err(failed),
        }
    }
}
