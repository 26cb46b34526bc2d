//! Kubernetes JSON to fairway objects, and what is written to the API server as JSON ([`writes`]).
//!
//! [`decode`] reads one object as the API server gives it and returns a [`Delta`]. A structural mistake (a text where a
//! number belongs) makes the object [`Delta::Invalid`], with a notice that names the field path. A value that cannot be
//! used (an address that is none, an annotation with an unknown word) is skipped with a notice, and the rest of the
//! object works. Defaults are those of the API; kube-router's annotations are read here and nowhere else.
//!
//! Deliberately not here: any decision that needs flags or other objects, and I/O. Start reading at [`decode`];
//! [`documents`] cuts a YAML text into what it reads.

mod annotations;
mod core_v1;
mod documents;
mod endpoint_slice;
mod node;
mod reader;
mod service;
pub mod writes;

pub use documents::{Document, DocumentError, documents};
pub use node::base64;

use fairway_objects::{Delta, Kind, Notice, ObjectKey, Subject};
use serde_json::Value;

/// Why a document says nothing about an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not a JSON object with `apiVersion` and `kind`.
    #[error("not a Kubernetes object: `kind` is missing")]
    NotAnObject,
    /// A kind that no node watches.
    #[error("kind {0} is not watched")]
    UnwatchedKind(String),
    /// `metadata.name` is missing or not a text.
    #[error("{0} without metadata.name")]
    NoName(Kind),
}

/// The watched kind of a document, by `apiVersion` and `kind`.
pub fn kind_of(value: &Value) -> Option<Kind> {
    let version = value.get("apiVersion").and_then(Value::as_str);
    match (version, value.get("kind")?.as_str()?) {
        (Some("v1") | None, "Node") => Some(Kind::Node),
        (Some("v1") | None, "Namespace") => Some(Kind::Namespace),
        (Some("v1") | None, "Service") => Some(Kind::Service),
        (Some("v1") | None, "Pod") => Some(Kind::Pod),
        (Some("discovery.k8s.io/v1") | None, "EndpointSlice") => Some(Kind::EndpointSlice),
        _ => None,
    }
}

/// The key of a document of a watched kind.
///
/// # Errors
/// If it has no watched kind or no name.
pub fn key_of(value: &Value) -> Result<ObjectKey, DecodeError> {
    let kind = match (kind_of(value), value.get("kind").and_then(Value::as_str)) {
        (Some(kind), _) => kind,
        (None, Some(kind)) => return Err(DecodeError::UnwatchedKind(kind.into())),
        (None, None) => return Err(DecodeError::NotAnObject),
    };
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    let name = text("/metadata/name").filter(|n| !n.is_empty()).ok_or(DecodeError::NoName(kind))?;
    let namespace = match kind {
        Kind::Node | Kind::Namespace => "",
        _ => text("/metadata/namespace").filter(|n| !n.is_empty()).unwrap_or("default"),
    };
    Ok(ObjectKey::new(kind, namespace, name))
}

/// Reads one object.
///
/// # Errors
/// If the document says nothing about an object of a watched kind. A wrong object is no error but
/// [`Delta::Invalid`].
pub fn decode(value: &Value) -> Result<Delta, DecodeError> {
    let key = key_of(value)?;
    let read = match key.kind {
        Kind::Node => node::read(value, &key),
        Kind::Namespace => core_v1::namespace(value, &key),
        Kind::Service => service::read(value, &key),
        Kind::EndpointSlice => endpoint_slice::read(value, &key),
        Kind::Pod => core_v1::pod(value, &key),
    };
    Ok(match read {
        Ok((object, notices)) => Delta::Put { object, notices },
        Err((field, reason)) => {
            let notice = Notice { subject: Subject::Object(key.clone()), field, reason };
            Delta::Invalid { key, notices: vec![notice] }
        }
    })
}
