//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.

use serde_json::Value;

use crate::resources::Resource;
use crate::status::Refusal;

/// A patch that was read.
#[derive(Debug)]
pub(crate) enum Patch {
    Merge(Value),
}

/// Reads a patch.
pub(crate) fn read(content_type: &str, body: &[u8]) -> Result<Patch, Refusal> {
    let json = || serde_json::from_slice(body).map_err(|e| Refusal::bad(format!("the patch is no JSON: {e}")));
    match content_type {
        "application/merge-patch+json" => Ok(Patch::Merge(json()?)),
        other => {
            Err(Refusal::new(415, "UnsupportedMediaType", format!("patches in the form {other:?} are not supported")))
        }
    }
}

impl Patch {
    /// Changes an object.
    pub(crate) fn apply(&self, object: &mut Value, _resource: &Resource) -> Result<(), Refusal> {
        match self {
            Patch::Merge(patch) => fairway_api::merge(object, patch),
        }
        Ok(())
    }
}
