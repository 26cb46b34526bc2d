//! Refusals as the `Status` objects clients expect.

use std::borrow::Cow;

use fairway_api::{ApiError, Gone};
use serde_json::{Value, json};

use crate::resources::Resource;

/// A refusal: an HTTP status and the `Status` object that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) code: u16,
    /// `reason`, one of the API's words.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: Cow<'static, str>,
    /// `details`, if there are any.
    pub(crate) details: Value,
}

impl Refusal {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Refusal { code, reason, message: message.into(), details: Value::Null }
    }

    /// 400
    pub(crate) fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Refusal::new(400, "BadRequest", message)
    }

    /// 404 for a path that is none.
    pub(crate) fn no_path() -> Self {
        Refusal::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405
    pub(crate) fn method() -> Self {
        Refusal::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 410: what the client wants to continue from is forgotten.
    pub(crate) fn expired(gone: Gone) -> Self {
        Refusal::new(410, "Expired", gone.to_string())
    }

    /// What the store says, in terms of a resource.
    pub(crate) fn from_api(error: ApiError, resource: &Resource) -> Self {
        let named = |name: &str, mut refusal: Refusal| {
            let name = name.rsplit('/').next().unwrap_or_default();
            refusal.details = json!({"name": name, "group": resource.group, "kind": resource.plural});
            refusal
        };
        let of = resource.qualified();
        match error {
            ApiError::NotFound { kind, name } => {
                let bare = name.rsplit('/').next().unwrap_or_default();
                let of = if kind == "Namespace" { "namespaces".to_string() } else { of };
                named(bare, Refusal::new(404, "NotFound", format!("{of} {bare:?} not found")))
            }
            ApiError::AlreadyExists { name, .. } => {
                named(&name, Refusal::new(409, "AlreadyExists", format!("{of} {name:?} already exists")))
            }
            ApiError::Conflict { name, reason, .. } => {
                let message = format!("Operation cannot be fulfilled on {of} {name:?}: {reason}");
                named(&name, Refusal::new(409, "Conflict", message))
            }
            ApiError::Invalid { kind, name, field, reason } => {
                let message = format!("{kind} {name:?} is invalid: {field}: {reason}");
                let mut refusal = named(&name, Refusal::new(422, "Invalid", message));
                refusal.details["causes"] = json!([{"reason": "FieldValueInvalid", "message": reason, "field": field}]);
                refusal
            }
        }
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}
