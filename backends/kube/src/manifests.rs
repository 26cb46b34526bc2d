//! A folder of manifests as the source of objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fairway_decode::{DecodeError, decode, documents, key_of};
use fairway_objects::{Delta, Kind, ObjectKey};
use serde_json::Value;

/// A larger file is not read: nobody writes such manifests.
const FILE_MAX: u64 = 64 << 20;

/// The folder cannot be read as a whole.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", folder.display())]
pub struct ReadError {
    /// Which.
    pub folder: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Something in the folder that is not in effect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0: the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.reason),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.reason),
        }
    }
}

/// What a look at the folder gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What is otherwise than before.
    pub deltas: Vec<Delta>,
    /// What is wrong in files that were read now.
    pub troubles: Vec<Trouble>,
}

/// How a file looked; if it still looks so, it is not read again.
type Stamp = (Option<SystemTime>, u64);

/// One file.
#[derive(Debug, Default)]
struct File {
    stamp: Stamp,
    objects: BTreeMap<ObjectKey, Value>,
}

/// A folder of manifests: `*.yaml`, `*.yml` and `*.json`, not those of folders in it.
///
/// An object that stands in two files counts as the first of them by name says. A file with a document that is no
/// YAML keeps what it said before: a slip of an editor takes no service away.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// What the receiver was told.
    told: BTreeMap<ObjectKey, Value>,
    listed: bool,
}

impl Manifests {
    /// A folder that was not looked at.
    pub fn new(folder: impl Into<PathBuf>) -> Manifests {
        Manifests { folder: folder.into(), files: BTreeMap::new(), told: BTreeMap::new(), listed: false }
    }

    /// Looks at the folder.
    ///
    /// # Errors
    /// If the folder cannot be read. Then nothing changed.
    pub fn poll(&mut self) -> Result<Changes, ReadError> {
        let failed = |source| ReadError { folder: self.folder.clone(), source };
        let mut seen = BTreeSet::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            // A file may go while we look.
            if manifest && fs::metadata(&path).is_ok_and(|m| m.is_file()) {
                seen.insert(path);
            }
        }
        let mut changes = Changes::default();
        let mut touched: BTreeSet<ObjectKey> = BTreeSet::new();
        let gone: Vec<PathBuf> = self.files.keys().filter(|path| !seen.contains(*path)).cloned().collect();
        for path in gone {
            touched.extend(self.files.remove(&path).into_iter().flat_map(|file| file.objects.into_keys()));
        }
        for path in seen {
            self.read(&path, &mut touched, &mut changes);
        }
        self.tell(touched, &mut changes);
        Ok(changes)
    }

    /// Reads a file if it looks otherwise than before.
    fn read(&mut self, path: &Path, touched: &mut BTreeSet<ObjectKey>, changes: &mut Changes) {
        let mut trouble = |line, reason| changes.troubles.push(Trouble { file: path.into(), line, reason });
        let Ok(metadata) = fs::metadata(path) else { return };
        let stamp = (metadata.modified().ok(), metadata.len());
        if self.files.get(path).is_some_and(|file| file.stamp == stamp) {
            return;
        }
        let file = self.files.entry(path.into()).or_default();
        file.stamp = stamp;
        if metadata.len() > FILE_MAX {
            return trouble(0, format!("larger than {} MiB, not read", FILE_MAX >> 20));
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return trouble(0, error.to_string()),
        };
        let mut objects = BTreeMap::new();
        let mut broken = false;
        for document in documents(&text) {
            let value = match document.value {
                Ok(value) => value,
                Err(wrong) => {
                    broken = true;
                    trouble(wrong.line, format!("no YAML, so what this file said before stays: {}", wrong.reason));
                    continue;
                }
            };
            match key_of(&value) {
                Ok(key) if objects.contains_key(&key) => {
                    trouble(document.line, format!("{key} stands twice in this file; the first one counts"));
                }
                Ok(key) => drop(objects.insert(key, value)),
                Err(DecodeError::UnwatchedKind(kind)) => {
                    trouble(document.line, format!("a node has no use for a {kind}, passed over"));
                }
                Err(wrong) => trouble(document.line, format!("{wrong}, passed over")),
            }
        }
        if broken {
            for (key, value) in std::mem::take(&mut file.objects) {
                objects.entry(key).or_insert(value);
            }
        }
        touched.extend(file.objects.keys().chain(objects.keys()).cloned());
        file.objects = objects;
    }

    /// What the receiver does not know yet.
    fn tell(&mut self, touched: BTreeSet<ObjectKey>, changes: &mut Changes) {
        let first = !std::mem::replace(&mut self.listed, true);
        let mut deltas: BTreeMap<Kind, Vec<Delta>> = BTreeMap::new();
        for key in touched {
            // Files are in the order of their names.
            let value = self.files.values().find_map(|file| file.objects.get(&key));
            if value == self.told.get(&key) {
                continue;
            }
            let delta = match value {
                None => {
                    self.told.remove(&key);
                    Delta::Del(key.clone())
                }
                Some(value) => {
                    self.told.insert(key.clone(), value.clone());
                    // The key was read from the same value, so this cannot fail.
                    let Ok(delta) = decode(value) else { continue };
                    delta
                }
            };
            deltas.entry(key.kind).or_default().push(delta);
        }
        for kind in Kind::ALL {
            let of_kind = deltas.remove(&kind).unwrap_or_default();
            if first {
                changes.deltas.push(Delta::Relist(kind));
            }
            changes.deltas.extend(of_kind);
            if first {
                changes.deltas.push(Delta::Listed(kind));
            }
        }
    }

    /// Whether the folder has such an object.
    pub fn has(&self, key: &ObjectKey) -> bool {
        self.told.contains_key(key)
    }
}
