//! What agents write to the API server of a scenario.

use fairway_agent::publish::{Answer, Event, Ingress, LeaseWrite, Refusal, Request};
use fairway_api::{ApiError, Part};
use fairway_decode::decode;
use fairway_decode::writes::{self, IngressPatch};
use serde_json::Value;

use crate::{Cluster, Time};

impl Cluster {
    /// Answers a request of an agent, as an API server does that lets it do everything.
    ///
    /// The stage drains [`Cluster::api`] afterwards.
    pub fn serve(&mut self, now: Time, request: &Request) -> Answer {
        match request {
            Request::ReadLease(name) => {
                Answer::Lease(Ok(self.api.get("Lease", &name.namespace, &name.name).map(writes::lease)))
            }
            Request::WriteLease(write) => Answer::Lease(self.lease(now, write).map(Some)),
            Request::Ingress(write) => {
                Answer::Ingress { service: write.service.name.clone(), result: self.ingress(now, write) }
            }
            Request::Event(event) => Answer::Event { name: event.name.clone(), result: self.event(now, event) },
        }
    }

    /// Now with microseconds. With less two renewals could be the same, and a write that changes nothing has no version.
    fn present(&self, now: Time) -> String {
        let seconds = self.api.timestamp(now);
        format!("{}.{:06}Z", seconds.trim_end_matches('Z'), now.subsec_micros())
    }

    fn lease(&mut self, now: Time, write: &LeaseWrite) -> Result<fairway_agent::publish::Lease, Refusal> {
        let body = writes::lease_body(write, &self.present(now));
        let (namespace, name) = (&*write.name.namespace, &*write.name.name);
        let stored = match write.version {
            None => self.api.create(now, "Lease", namespace, body, false),
            Some(_) => self.api.replace(now, ("Lease", namespace, name), body, Part::Whole, false),
        };
        stored.map(|lease| writes::lease(&lease)).map_err(refusal)
    }

    fn ingress(&mut self, now: Time, write: &Ingress) -> Result<(bool, fairway_objects::Delta), Refusal> {
        let name = &write.service.name;
        let at = ("Service", &*name.namespace, &*name.name);
        let Some(mut value) = self.api.get(at.0, at.1, at.2).cloned() else { return Err(Refusal::Gone) };
        let written = match writes::ingress_patch(write, &value) {
            IngressPatch::Differs(delta) => return Ok((false, delta)),
            IngressPatch::Patch(patch) => {
                fairway_api::merge(&mut value, &patch);
                self.api.replace(now, at, value, Part::Status, false).map_err(refusal)?
            }
        };
        decode(&written).map(|delta| (true, delta)).map_err(|error| Refusal::Refused(error.to_string()))
    }

    fn event(&mut self, now: Time, event: &Event) -> Result<(), Refusal> {
        let key = &event.object;
        let object = self.api.get(key.kind.as_str(), &key.name.namespace, &key.name.name);
        let Some(object) = object else { return Err(Refusal::Gone) };
        let time = self.present(now);
        let body = writes::event_body(event, object, &time);
        let namespace = writes::event_namespace(key);
        match self.api.get("Event", namespace, &event.name) {
            Some(existing) if event.again => {
                let patch = writes::event_again(existing, &time);
                self.api.patch_json(now, "Event", namespace, &event.name, patch).map_err(refusal)
            }
            _ => self.api.create(now, "Event", namespace, body, false).map(drop).map_err(refusal),
        }
    }

    /// What `kubectl get events` shows, in short: the object's kind and name, the reason, the message, how often.
    pub fn events(&self) -> Vec<(String, String, String, u64)> {
        let text =
            |event: &Value, path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_string();
        let line = |event: &Value| {
            let object = format!("{} {}", text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
            let count = event.get("count").and_then(Value::as_u64).unwrap_or_default();
            (object, text(event, "/reason"), text(event, "/message"), count)
        };
        self.api.list("Event").map(line).collect()
    }
}

fn refusal(error: ApiError) -> Refusal {
    match error {
        ApiError::NotFound { .. } => Refusal::Gone,
        ApiError::AlreadyExists { .. } | ApiError::Conflict { .. } => Refusal::Conflict,
        ApiError::Invalid { .. } => Refusal::Refused(error.to_string()),
    }
}
