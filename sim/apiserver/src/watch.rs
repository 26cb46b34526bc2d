//! Watches: the changes of one resource after a version, as a stream of JSON lines.
//!
//! A watch holds no queue of its own. It knows up to which version it has told, and asks the store for what came after;
//! so a slow client costs nothing, and one that is too slow learns that its place in history is gone (410).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fairway_api::{Change, Gone};
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, sleep_until};

use crate::request::Form;
use crate::resources::Resource;
use crate::rest::{View, shown};
use crate::selector::Selector;
use crate::server::{Cut, Inner};
use crate::status::Refusal;

/// A watch that is to begin.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) resource: &'static Resource,
    /// Empty for all.
    pub(crate) namespace: String,
    pub(crate) selector: Selector,
    pub(crate) view: View,
    /// What the client is told first as ADDED, with the version of that state.
    pub(crate) initial: Vec<Arc<Value>>,
    /// Told up to here.
    pub(crate) version: u64,
    /// Whether a bookmark says that the initial events are over.
    pub(crate) initial_bookmark: bool,
    /// Whether the client wants bookmarks.
    pub(crate) bookmarks: bool,
    /// When the server ends it.
    pub(crate) timeout: Option<Duration>,
}

/// Why a watch ended before its time.
enum End {
    /// The client is gone.
    Left,
    /// The last word was an error.
    Told,
}

/// One event of a watch: its type and object.
fn event(change: &Change, namespace: &str, selector: &Selector) -> Option<(&'static str, Arc<Value>)> {
    if !namespace.is_empty() && change.namespace != namespace {
        return None;
    }
    let before = change.before.as_ref().is_some_and(|b| selector.matches(b));
    let after = !change.deleted && selector.matches(&change.after);
    let kind = match (before, after) {
        (false, true) => "ADDED",
        (true, true) => "MODIFIED",
        (true, false) => "DELETED",
        (false, false) => return None,
    };
    Some((kind, change.after.clone()))
}

impl Watch {
    /// Tells until the client leaves, the time is over or the history is lost.
    pub(crate) async fn run(self, inner: Arc<Inner>, send: Sender<Result<Bytes, Cut>>) {
        let mut cuts = inner.cuts();
        let timeout = self.timeout;
        let end = async {
            match timeout {
                Some(timeout) => sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ended = self.tell(&inner, &send) => {}
            () = send.closed() => {}
            () = end => {}
            _cut = cuts.changed() => {
                // If nobody takes the error, nobody is there to be cut off.
                let _left = send.try_send(Err(Cut));
            }
        }
    }

    async fn tell(mut self, inner: &Inner, send: &Sender<Result<Bytes, Cut>>) -> Result<(), End> {
        let mut versions = inner.versions();
        let mut bookmark_at = Instant::now() + inner.bookmark();
        for object in std::mem::take(&mut self.initial) {
            self.say(inner, send, "ADDED", &object).await?;
        }
        if self.initial_bookmark {
            self.bookmark(send, true).await?;
        }
        loop {
            versions.borrow_and_update();
            let reorder = inner.misbehaviour().reorder;
            if !reorder.is_zero() {
                sleep(inner.part_of(reorder)).await;
            }
            let batch: Result<Vec<_>, Gone> = {
                let api = inner.api();
                let seen = api.version();
                let changes = api.changes_since(self.resource.kind, self.version);
                let batch =
                    changes.map(|c| c.filter_map(|c| event(c, &self.namespace, &self.selector)).collect::<Vec<_>>());
                if batch.is_ok() {
                    self.version = self.version.max(seen);
                }
                batch
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(gone) => {
                    let line = json!({"type": "ERROR", "object": Refusal::expired(gone).status()});
                    self.send(send, &line).await?;
                    return Err(End::Told);
                }
            };
            for (kind, object) in batch {
                self.say(inner, send, kind, &object).await?;
            }
            tokio::select! {
                changed = versions.changed() => if changed.is_err() { return Ok(()) },
                () = sleep_until(bookmark_at), if self.bookmarks => {
                    bookmark_at = Instant::now() + inner.bookmark();
                    self.bookmark(send, false).await?;
                }
            }
        }
    }

    async fn send(&self, send: &Sender<Result<Bytes, Cut>>, line: &Value) -> Result<(), End> {
        send.send(Ok(Bytes::from(format!("{line}\n")))).await.map_err(|_| End::Left)
    }

    async fn say(
        &self,
        inner: &Inner,
        send: &Sender<Result<Bytes, Cut>>,
        kind: &'static str,
        object: &Value,
    ) -> Result<(), End> {
        let line = json!({"type": kind, "object": shown(object, self.resource, &self.view, &inner.timestamp())});
        let mood = inner.misbehaviour();
        self.send(send, &line).await?;
        if inner.chance(mood.duplicate) {
            self.send(send, &line).await?;
        }
        if inner.chance(mood.disconnect) {
            let _left = send.send(Err(Cut)).await;
            return Err(End::Told);
        }
        Ok(())
    }

    async fn bookmark(&self, send: &Sender<Result<Bytes, Cut>>, initial: bool) -> Result<(), End> {
        let mut metadata = json!({"resourceVersion": self.version.to_string(), "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata,
        });
        let object = match self.view.form {
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            }),
            _ => object,
        };
        self.send(send, &json!({"type": "BOOKMARK", "object": object})).await
    }
}
