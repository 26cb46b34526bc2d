//! What is asked of the API server, and its answers.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_objects::{Delta, NoticeChange, ObjectKey, ObjectName, Service};

use crate::Time;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the API server; each request wants exactly one [`Answer`].
    Request(Request),
    /// A notice of ours begins or ceases to stand.
    Notice(NoticeChange),
}

/// A question to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read a Lease (`coordination.k8s.io/v1`). Answered by [`Answer::Lease`].
    ReadLease(ObjectName),
    /// Create or update it. Answered by [`Answer::Lease`].
    WriteLease(LeaseWrite),
    /// Change the addresses in the status of a service. Answered by [`Answer::Ingress`].
    Ingress(Ingress),
    /// Write an Event (`v1`). Answered by [`Answer::Event`].
    Event(Event),
}

/// What a Lease says. Its times are texts: they are another node's clock, and nobody here compares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Lease {
    /// `spec.holderIdentity`; empty: nobody.
    pub holder: Arc<str>,
    /// `spec.leaseDurationSeconds`
    pub duration_s: u32,
    /// `spec.leaseTransitions`
    pub transitions: u32,
    /// `spec.acquireTime`
    pub acquired: Arc<str>,
    /// `spec.renewTime`
    pub renewed: Arc<str>,
    /// `metadata.resourceVersion`
    pub version: Arc<str>,
}

/// A Lease to be written. The driver puts the present in `renewTime`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseWrite {
    /// Namespace and name.
    pub name: ObjectName,
    /// `spec.holderIdentity`
    pub holder: Arc<str>,
    /// `spec.leaseDurationSeconds`
    pub duration_s: u32,
    /// `spec.leaseTransitions`
    pub transitions: u32,
    /// `spec.acquireTime` as it was; `None`: now.
    pub acquired: Option<Arc<str>>,
    /// The version that is replaced; `None`: it does not exist.
    pub version: Option<Arc<str>>,
}

/// A change of `status.loadBalancer.ingress`. The driver reads the service; if it decodes to something else than
/// `service` nothing is written, and otherwise exactly that version is replaced. Entries that are not named stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// The service as it is known here.
    pub service: Arc<Service>,
    /// Addresses to append.
    pub add: Vec<IpAddr>,
    /// Addresses whose entries go.
    pub remove: Vec<IpAddr>,
}

/// An Event to be written. The driver puts the present in its times, and the object's uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `metadata.name`; the namespace is that of the object, `default` for objects without one.
    pub name: Arc<str>,
    /// `involvedObject`
    pub object: ObjectKey,
    /// `type` is Warning, else Normal.
    pub warning: bool,
    /// `reason`
    pub reason: Arc<str>,
    /// `message`
    pub note: Arc<str>,
    /// `reportingInstance`
    pub instance: Arc<str>,
    /// If there is such an Event, count it once more. Otherwise that is left to whoever wrote it, and the
    /// answer is [`Refusal::Conflict`].
    pub again: bool,
}

/// Why the API server did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Refusal {
    /// Somebody else was faster (409).
    Conflict,
    /// The object, or its namespace, is gone or going (404, or 403 in a namespace that ends).
    Gone,
    /// We may not (403, 401), in the server's words.
    Forbidden(String),
    /// No answer, or one that says to come again (429, 5xx); not before `after`, if it says so.
    Unreachable {
        /// In the words of whoever failed.
        reason: String,
        /// `Retry-After`
        after: Option<Time>,
    },
    /// Anything else; asking again is useless.
    Refused(String),
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Answer {
    /// The Lease as it is now; `None`: it does not exist.
    Lease(Result<Option<Lease>, Refusal>),
    /// The service as it is now, and whether it was written.
    Ingress {
        /// Whose.
        service: ObjectName,
        /// `Ok(true, _)`: written; `Ok(false, _)`: it is not as we know it.
        result: Result<(bool, Delta), Refusal>,
    },
    /// The Event is there.
    Event {
        /// `metadata.name`
        name: Arc<str>,
        /// Whether.
        result: Result<(), Refusal>,
    },
}
