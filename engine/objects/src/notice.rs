use alloc::string::String;
use core::fmt;

use crate::ObjectKey;

/// What a notice is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Subject {
    /// An object in the API server.
    Object(ObjectKey),
    /// A flag of this daemon, by name without dashes.
    Flag(String),
    /// Kernel state that could not be made as desired: the plane's name and the key as text.
    Kernel(String),
    /// Where objects come from: the API server, with its address.
    Source(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Object(key) => key.fmt(f),
            Subject::Flag(name) => write!(f, "flag --{name}"),
            Subject::Kernel(what) => write!(f, "kernel {what}"),
            Subject::Source(what) => f.write_str(what),
        }
    }
}

/// Something that an operator should know: an object, flag or kernel entry is not (fully) in effect, and why.
///
/// A notice is state, not an event: it stands as long as its cause does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Notice {
    /// What is at fault.
    pub subject: Subject,
    /// The field in Kubernetes notation (`spec.externalIPs[0]`, `metadata.annotations[kube-router.io/…]`);
    /// empty where the whole subject is meant.
    pub field: String,
    /// Why, as a short clause without a full stop.
    pub reason: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}: {}", self.subject, self.reason)
        } else {
            write!(f, "{}: {}: {}", self.subject, self.field, self.reason)
        }
    }
}

/// A notice begins or ceases to stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum NoticeChange {
    /// The cause appeared.
    Raised(Notice),
    /// The cause is gone.
    Cleared(Notice),
}
