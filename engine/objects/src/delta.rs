use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::{EndpointSlice, Kind, Namespace, Node, Notice, ObjectKey, ObjectName, Pod, Service};

/// One object of any watched kind. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Object {
    /// A node of the cluster.
    Node(Arc<Node>),
    /// A namespace.
    Namespace(Arc<Namespace>),
    /// A service.
    Service(Arc<Service>),
    /// A slice of the endpoints of one service.
    EndpointSlice(Arc<EndpointSlice>),
    /// A pod.
    Pod(Arc<Pod>),
}

impl Object {
    /// The object's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Node(_) => Kind::Node,
            Object::Namespace(_) => Kind::Namespace,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Pod(_) => Kind::Pod,
        }
    }

    /// The object's name.
    pub fn name(&self) -> &ObjectName {
        match self {
            Object::Node(o) => &o.name,
            Object::Namespace(o) => &o.name,
            Object::Service(o) => &o.name,
            Object::EndpointSlice(o) => &o.name,
            Object::Pod(o) => &o.name,
        }
    }

    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind(), name: self.name().clone() }
    }
}

/// One change in what the API server says.
///
/// The vocabulary mirrors a watch with relists. Repeated, reordered, coalesced and reverted changes are all
/// legal: a `Put` may carry the object the receiver has already, a `Del` may name one it never saw.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Delta {
    /// The object exists and looks like this. The notices say what in it was wrong but did not make it
    /// unusable (an annotation that was ignored, an address that was skipped); they replace earlier ones.
    Put {
        /// The object.
        object: Object,
        /// What was ignored in it.
        notices: Vec<Notice>,
    },
    /// The object exists but cannot be used. It counts as absent.
    Invalid {
        /// Which object.
        key: ObjectKey,
        /// Why. Never empty.
        notices: Vec<Notice>,
    },
    /// The object does not exist.
    Del(ObjectKey),
    /// A list of this kind starts: objects not `Put` (or `Invalid`) before the next `Listed` are gone.
    Relist(Kind),
    /// The list of this kind is complete.
    Listed(Kind),
}
