//! The file.

use std::fs::{self, File as Handle, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fairway_desired::{Backend, Fault, File, Op, Outcome, Table, file_errno};
use rustix::io::Errno;

use crate::conf::{Trouble, is_list, merge, read};

/// Mode of a file that we make.
const MODE: u32 = 0o644;

/// One CNI configuration, in the mount namespace of the process. It is opened anew for each call, so it may come, go and
/// be replaced at any time.
#[derive(Debug)]
pub struct CniBackend {
    path: Arc<str>,
    /// The MTU in it is ours to say; not after it was put without one.
    mtu: bool,
}

impl CniBackend {
    /// For the file of this path. Nothing is read or written yet.
    pub fn new(path: Arc<str>) -> CniBackend {
        CniBackend { path, mtu: true }
    }

    fn put(&mut self, op: &Op<File>) -> Outcome {
        let (path, value) = match op {
            Op::Put(path, value) if *path == self.path => (path, value),
            // There is one file of ours, and it is never deleted.
            Op::Put(..) => return refused(&Errno::INVAL.into()),
            Op::Del(path) => {
                let there = Path::new(&**path).exists();
                return if there { refused(&Errno::INVAL.into()) } else { Outcome::Gone };
            }
        };
        let text = match text(path) {
            Ok(text) => text,
            // Something that is no text.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Outcome::Refused(Trouble::NotCni.errno());
            }
            Err(error) => return refused(&error),
        };
        // The runtime takes the first configuration of a folder.
        if text.is_none() && has_others(Path::new(&**path)) {
            return Outcome::Refused(file_errno::OTHERS);
        }
        match merge(text.as_deref(), is_list(path), value) {
            Ok(Some(new)) => {
                if let Err(error) = replace(Path::new(&**path), &new) {
                    return refused(&error);
                }
            }
            Ok(None) => {}
            Err(trouble) => return Outcome::Refused(trouble.errno()),
        }
        self.mtu = value.mtu.is_some();
        Outcome::Done
    }
}

/// The text of a file, if it is there.
fn text(path: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether there are configurations in the folder of a file. A folder that cannot be read will take no file either.
fn has_others(path: &Path) -> bool {
    let entries = path.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let is_one =
        |name: &Path| name.extension().is_some_and(|end| ["conf", "conflist", "json"].iter().any(|e| end == *e));
    entries.into_iter().any(|entry| is_one(Path::new(&entry.file_name())))
}

fn refused(error: &io::Error) -> Outcome {
    Outcome::Refused(error.raw_os_error().unwrap_or(file_errno::NOT_CNI))
}

/// Replaces a file as a whole, with its mode kept: the kubelet and the runtime may read it at any time, and a machine may
/// lose power. Where the name is a link, it is the file behind it that is replaced.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_path_buf(),
        Err(error) => return Err(error),
    };
    let mode = match fs::metadata(&path) {
        Ok(old) => old.permissions().mode() & 0o7777,
        Err(_) => MODE,
    };
    let new = beside(&path);
    let written = write(&new, text, mode).and_then(|()| fs::rename(&new, &path));
    if let Err(error) = written {
        // What was wrong first is what counts.
        let _rest = fs::remove_file(&new);
        return Err(error);
    }
    // The name is safe only with its folder.
    let folder = path.parent().unwrap_or(Path::new("/"));
    Handle::open(folder)?.sync_all()
}

/// A name in the same folder that no runtime takes for a configuration. It is always the same, so that an attempt that
/// was cut off leaves no more than one behind.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(|name| name.to_os_string()).unwrap_or_default();
    name.push(".fairway-new");
    path.with_file_name(name)
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    // Without the process's mask.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

impl Backend<File> for CniBackend {
    /// The file if it is there and of the form that [`merge`] leaves; what it says of other networks is part of that.
    fn observe(&mut self) -> Result<Table<File>, Fault> {
        match text(&self.path) {
            Ok(text) => {
                let value = text.and_then(|text| read(&text, is_list(&self.path), self.mtu));
                Ok(value.map(|value| (self.path.clone(), value)).into_iter().collect())
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Fault::Denied),
            // To put it will say why.
            Err(_) => Ok(Table::<File>::new()),
        }
    }

    fn apply(&mut self, ops: &[Op<File>]) -> Result<Vec<Outcome>, Fault> {
        Ok(ops.iter().map(|op| self.put(op)).collect())
    }
}
