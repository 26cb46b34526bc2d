//! What a request does: discovery, and the verbs on resources.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use fairway_api::{Api, ApiError, DeleteOptions, Gone, Part};
use hyper::Method;
use serde_json::{Value, json};

use crate::request::{Form, Query, Target};
use crate::resources::{self, Resource};
use crate::selector::Selector;
use crate::server::Inner;
use crate::status::Refusal;
use crate::table::{Rows, table};
use crate::watch::Watch;
use crate::{events, managed, openapi, patch, types};

/// One request.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: &'a Query,
    pub(crate) form: Form,
    /// Without parameters.
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a [u8],
    /// Under which name the client knows the server.
    pub(crate) host: &'a str,
}

/// What is answered.
pub(crate) enum Answer {
    Json(u16, Value),
    /// The same, with what the client should know although it is done.
    Warned(u16, Value, Vec<String>),
    /// Content type and text.
    Text(&'static str, String),
    Watch(Box<Watch>),
}

/// How a client wants to see objects.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) form: Form,
    /// What rows of a table carry.
    pub(crate) rows: Rows,
}

/// An object as a client sees it; `now` is the time as RFC 3339, for tables.
pub(crate) fn shown(object: &Value, resource: &Resource, view: &View, now: &str) -> Value {
    match view.form {
        Form::Table => table(resource, &[object], view.rows, now),
        Form::Metadata => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata").cloned().unwrap_or_default(),
        }),
        Form::Plain | Form::Discovery => plain(object, resource),
    }
}

fn plain(object: &Value, resource: &Resource) -> Value {
    let mut object = object.clone();
    if resource.group == "events.k8s.io" {
        events::from_core(&mut object);
    }
    object
}

/// Does what a request asks for.
pub(crate) fn act(inner: &Inner, call: &Call<'_>) -> Result<Answer, Refusal> {
    let segments: Vec<&str> = call.path.split('/').skip(1).filter(|s| !s.is_empty()).collect();
    let found = |value: Option<Value>| value.map(|v| Answer::Json(200, v)).ok_or_else(Refusal::no_path);
    let (group, version, rest) = match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(Answer::Text("text/plain", "ok".into())),
        ["version"] => return Ok(Answer::Json(200, version())),
        ["api" | "apis"] if call.form == Form::Discovery => {
            // The client knows by the content type that it got what it asked for.
            let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            return Ok(Answer::Text(kind, resources::aggregated(segments == ["api"]).to_string()));
        }
        ["api"] => return Ok(Answer::Json(200, resources::core_versions(call.host))),
        ["apis"] => return Ok(Answer::Json(200, resources::group_list())),
        ["openapi", "v3", rest @ ..] => return found(openapi::of_path(rest)),
        ["api", version] => return found(resources::resource_list("", version)),
        ["apis", group] => return found(resources::group(group)),
        ["apis", group, version] => return found(resources::resource_list(group, version)),
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(Refusal::no_path()),
    };
    let target = Target::parse(group, version, rest)?;
    match (call.method.clone(), target.name, target.sub) {
        (Method::GET | Method::HEAD, None, _) if call.query.flag("watch") => watch(inner, call, &target),
        (Method::GET | Method::HEAD, None, _) => list(inner, call, &target),
        (Method::GET | Method::HEAD, Some(name), "" | "status") if call.query.flag("watch") => {
            let _one = name;
            watch(inner, call, &target)
        }
        (Method::GET | Method::HEAD, Some(name), sub) => get(inner, call, &target, name, sub),
        (Method::POST, None, _) => create(inner, call, &target),
        (Method::POST, Some(name), "eviction") => evict(inner, call, &target, name),
        (Method::PUT, Some(name), sub) if sub != "eviction" => update(inner, call, &target, name, sub),
        (Method::PATCH, Some(name), sub) if sub != "eviction" => patched(inner, call, &target, name, sub),
        (Method::DELETE, Some(name), "") => delete(inner, call, &target, name),
        (Method::DELETE, None, _) => delete_all(inner, call, &target),
        _ => Err(Refusal::method()),
    }
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": concat!("v1.33.0-fairway-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": "linux/amd64",
    })
}

fn view(call: &Call<'_>) -> Result<View, Refusal> {
    Ok(View { form: call.form, rows: Rows::parse(call.query.get("includeObject"))? })
}

fn selector(call: &Call<'_>, target: &Target<'_>) -> Result<Selector, Refusal> {
    Selector::parse(call.query.get("labelSelector"), call.query.get("fieldSelector"), target.resource)
}

/// A version as clients give it back.
fn asked_version(text: &str) -> Result<Option<u64>, Refusal> {
    match text {
        "" => Ok(None),
        text => {
            let wrong = |_| Refusal::bad(format!("resourceVersion: Invalid value: {text:?}: a number is wanted"));
            text.parse().map(Some).map_err(wrong)
        }
    }
}

/// A client that knows more than the server was told by another server.
fn not_ahead(api: &Api, version: u64) -> Result<(), Refusal> {
    if version <= api.version() {
        return Ok(());
    }
    let message = format!("Too large resource version: {version}, current: {}", api.version());
    let mut refusal = Refusal::new(504, "Timeout", message);
    refusal.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1});
    Err(refusal)
}

/// The state that a list shows: its version, and all objects of it.
fn state(inner: &Inner, call: &Call<'_>, target: &Target<'_>) -> Result<(u64, Vec<Arc<Value>>), Refusal> {
    let api = inner.api();
    let kind = target.resource.kind;
    let asked = asked_version(call.query.get("resourceVersion"))?;
    let how = call.query.get("resourceVersionMatch");
    let at = |version: u64| {
        let objects = api.objects_at(kind, target.namespace, version);
        objects.map(|o| (version, o)).map_err(Refusal::expired)
    };
    match (asked, how) {
        (None, "") | (Some(_), "" | "NotOlderThan" | "Exact") => {}
        (None, how) => {
            return Err(Refusal::bad(format!("resourceVersionMatch: Forbidden: {how:?} needs a resourceVersion")));
        }
        (Some(_), how) => return Err(Refusal::bad(format!("resourceVersionMatch: Unsupported value: {how:?}"))),
    }
    if let Some(version) = asked {
        not_ahead(&api, version)?;
        if how == "Exact" {
            if version == 0 {
                return Err(Refusal::bad("resourceVersionMatch: Forbidden: \"Exact\" needs a resourceVersion"));
            }
            return at(version);
        }
    }
    if inner.chance(inner.misbehaviour().stale) {
        let oldest = match api.changes_since(kind, 0) {
            Ok(_) => 0,
            Err(Gone { oldest, .. }) => oldest,
        };
        // Never older than the client knows already, unless it takes any.
        return at(oldest.max(asked.unwrap_or(0)));
    }
    Ok((api.version(), api.objects(kind, target.namespace).collect()))
}

/// A continue token: the version of the state and the last object shown.
fn continued(text: &str) -> Result<Option<(u64, String, String)>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut parts = text.splitn(3, '/');
    let version = parts.next().and_then(|v| v.strip_prefix('v')).and_then(|v| v.parse().ok());
    match (version, parts.next(), parts.next()) {
        (Some(version), Some(namespace), Some(name)) => Ok(Some((version, namespace.into(), name.into()))),
        _ => Err(Refusal::bad("continue key is not valid")),
    }
}

fn name_of(object: &Value) -> (&str, &str) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    (text("/metadata/namespace"), text("/metadata/name"))
}

fn list(inner: &Inner, call: &Call<'_>, target: &Target<'_>) -> Result<Answer, Refusal> {
    let selector = selector(call, target)?;
    let limit = call.query.number("limit")?.unwrap_or(0);
    let from = continued(call.query.get("continue"))?;
    let (version, mut objects) = match &from {
        None => state(inner, call, target)?,
        Some((version, namespace, name)) => {
            let api = inner.api();
            not_ahead(&api, *version)?;
            let objects = api.objects_at(target.resource.kind, target.namespace, *version);
            let mut objects = objects.map_err(|_| {
                let message = "The provided continue parameter is too old to display a consistent list result. \
                               You can start a new list without the continue parameter.";
                Refusal::new(410, "Expired", message)
            })?;
            objects.retain(|o| name_of(o) > (namespace.as_str(), name.as_str()));
            (*version, objects)
        }
    };
    objects.retain(|o| selector.matches(o));
    let mut metadata = json!({"resourceVersion": version.to_string()});
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit > 0 && objects.len() > limit {
        let left = objects.len() - limit;
        objects.truncate(limit);
        if let Some(last) = objects.last() {
            let (namespace, name) = name_of(last);
            metadata["continue"] = json!(format!("v{version}/{namespace}/{name}"));
        }
        metadata["remainingItemCount"] = json!(left);
    }
    let resource = target.resource;
    let view = view(call)?;
    if call.form == Form::Table {
        let objects: Vec<&Value> = objects.iter().map(|o| &**o).collect();
        let mut answer = table(resource, &objects, view.rows, &inner.timestamp());
        answer["metadata"] = metadata;
        return Ok(Answer::Json(200, answer));
    }
    let items: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut item = shown(object, resource, &view, "");
            // As in the API, the list says what its items are.
            if call.form == Form::Plain
                && let Some(item) = item.as_object_mut()
            {
                item.shift_remove("kind");
                item.shift_remove("apiVersion");
            }
            item
        })
        .collect();
    let (kind, api_version) = match call.form {
        Form::Metadata => ("PartialObjectMetadataList".to_string(), "meta.k8s.io/v1".to_string()),
        _ => (format!("{}List", resource.kind), resource.api_version()),
    };
    Ok(Answer::Json(200, json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items})))
}

fn watch(inner: &Inner, call: &Call<'_>, target: &Target<'_>) -> Result<Answer, Refusal> {
    let mut selector = selector(call, target)?;
    if let Some(name) = target.name {
        selector = selector.named(name);
    }
    let version = asked_version(call.query.get("resourceVersion"))?;
    let how = call.query.get("resourceVersionMatch");
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let initial = call.query.flag("sendInitialEvents");
    match (call.query.get("sendInitialEvents"), how) {
        ("", "") => {}
        ("", _) => {
            return Err(Refusal::bad(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        (_, "NotOlderThan") => {}
        (_, _) => {
            return Err(Refusal::bad(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
    }
    let timeout = call.query.number("timeoutSeconds")?.filter(|s| *s > 0).map(Duration::from_secs);
    let view = view(call)?;
    let from_here = version.is_some_and(|v| v > 0) && !initial;
    if from_here && inner.chance(inner.misbehaviour().gone) {
        let asked = version.unwrap_or(0);
        return Err(Refusal::expired(Gone { asked, oldest: asked + 1 }));
    }
    let api = inner.api();
    let mut watch = Watch {
        resource: target.resource,
        namespace: target.namespace.into(),
        selector,
        view,
        initial: vec![],
        version: version.unwrap_or(0),
        initial_bookmark: initial && bookmarks,
        bookmarks,
        timeout,
    };
    // Without a version, or with 0, a watch begins with what is there, unless the client does not want that.
    let legacy = call.query.get("sendInitialEvents").is_empty() && !from_here;
    if initial || legacy {
        if let Some(version) = version {
            not_ahead(&api, version)?;
        }
        let objects = api.objects(target.resource.kind, target.namespace);
        watch.initial = objects.filter(|o| watch.selector.matches(o)).collect();
        watch.version = api.version();
    } else if !from_here {
        watch.version = api.version();
    }
    Ok(Answer::Watch(Box::new(watch)))
}

fn refused(resource: &'static Resource) -> impl Fn(ApiError) -> Refusal {
    move |error| Refusal::from_api(error, resource)
}

fn existing(api: &Api, target: &Target<'_>, name: &str) -> Result<Arc<Value>, Refusal> {
    let resource = target.resource;
    api.object(resource.kind, target.namespace, name).ok_or_else(|| {
        Refusal::from_api(ApiError::NotFound { kind: resource.kind.into(), name: name.into() }, resource)
    })
}

fn get(inner: &Inner, call: &Call<'_>, target: &Target<'_>, name: &str, sub: &str) -> Result<Answer, Refusal> {
    let object = existing(&inner.api(), target, name)?;
    match sub {
        "scale" => Ok(Answer::Json(200, scale_of(&object))),
        "eviction" => Err(Refusal::method()),
        _ => Ok(Answer::Json(200, shown(&object, target.resource, &view(call)?, &inner.timestamp()))),
    }
}

/// The body of a request, JSON or YAML.
fn body(call: &Call<'_>) -> Result<Value, Refusal> {
    match call.content_type {
        "application/yaml" | "application/apply-patch+yaml" => {
            let text = std::str::from_utf8(call.body).map_err(|e| Refusal::bad(e.to_string()))?;
            let mut documents = fairway_decode::documents(text).into_iter();
            let first = documents.next().ok_or_else(|| Refusal::bad("the body is empty"))?;
            first.value.map_err(|e| Refusal::bad(format!("line {}: {}", e.line, e.reason)))
        }
        "" | "application/json" | "text/plain" => {
            serde_json::from_slice(call.body).map_err(|e| Refusal::bad(format!("the body is no JSON: {e}")))
        }
        other => Err(Refusal::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - {other}: accepted are JSON and YAML"),
        )),
    }
}

/// An object that a client sent, with what the path says filled in.
fn received(mut object: Value, target: &Target<'_>) -> Result<Value, Refusal> {
    let resource = target.resource;
    let wanted = [("kind", resource.kind.to_string()), ("apiVersion", resource.api_version())];
    let Some(fields) = object.as_object_mut() else { return Err(Refusal::bad("the body is no object")) };
    for (field, wanted) in wanted {
        match fields.get(field).and_then(Value::as_str) {
            None | Some("") => {
                fields.insert(field.into(), json!(wanted));
            }
            Some(given) if given == wanted => {}
            Some(given) => {
                let message = format!("{field} in the data ({given}) does not match the expected {field} ({wanted})");
                return Err(Refusal::bad(message));
            }
        }
    }
    if resource.namespaced()
        && let Some(given) = object.pointer("/metadata/namespace").and_then(Value::as_str)
        && !given.is_empty()
        && given != target.namespace
    {
        let message = format!(
            "the namespace of the provided object does not match the namespace sent on the request ({given}, {})",
            target.namespace
        );
        return Err(Refusal::bad(message));
    }
    if resource.group == "events.k8s.io" {
        events::to_core(&mut object);
    }
    Ok(object)
}

/// Judges the fields of an object that is about to be stored: what the client is warned of.
fn warnings(call: &Call<'_>, resource: &Resource, object: &Value) -> Result<Vec<String>, Refusal> {
    let unknown = types::check(resource.kind, object)?;
    match call.query.get("fieldValidation") {
        "Ignore" => Ok(vec![]),
        "" | "Warn" => Ok(unknown.into_iter().map(|field| format!("unknown field {field:?}")).collect()),
        "Strict" if unknown.is_empty() => Ok(vec![]),
        "Strict" => {
            let list: Vec<String> = unknown.into_iter().map(|field| format!("unknown field {field:?}")).collect();
            Err(Refusal::bad(format!("strict decoding error: {}", list.join(", "))))
        }
        other => Err(Refusal::bad(format!("fieldValidation: Unsupported value: {other:?}"))),
    }
}

fn dry_run(call: &Call<'_>) -> bool {
    call.query.get("dryRun") == "All"
}

fn create(inner: &Inner, call: &Call<'_>, target: &Target<'_>) -> Result<Answer, Refusal> {
    let resource = target.resource;
    if resource.namespaced() && target.namespace.is_empty() {
        return Err(Refusal::method());
    }
    let object = received(body(call)?, target)?;
    let warnings = warnings(call, resource, &object)?;
    let mut api = inner.api();
    let stored = api.create(inner.now(), resource.kind, target.namespace, object, dry_run(call));
    let stored = stored.map_err(refused(resource))?;
    drop(api);
    Ok(Answer::Warned(201, shown(&stored, resource, &view(call)?, &inner.timestamp()), warnings))
}

/// The `Scale` of an object.
fn scale_of(object: &Value) -> Value {
    let at = |path: &str| object.pointer(path);
    let (namespace, name) = name_of(object);
    let selector: Vec<String> = at("/spec/selector/matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some(format!("{k}={}", v.as_str()?)))
        .collect();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": name, "namespace": namespace, "uid": at("/metadata/uid"),
            "resourceVersion": at("/metadata/resourceVersion"), "creationTimestamp": at("/metadata/creationTimestamp"),
        },
        "spec": {"replicas": at("/spec/replicas").and_then(Value::as_u64).unwrap_or(1)},
        "status": {
            "replicas": at("/status/replicas").and_then(Value::as_u64).unwrap_or(0), "selector": selector.join(","),
        },
    })
}

/// An object with the replicas and the expected version of its `Scale`.
fn scaled(object: &Value, scale: &Value) -> Result<Value, Refusal> {
    let replicas = scale.pointer("/spec/replicas").map_or(Some(0), Value::as_u64);
    let Some(replicas) = replicas.filter(|r| *r <= i32::MAX as u64) else {
        return Err(Refusal::new(422, "Invalid", "spec.replicas: Invalid value: a count is wanted"));
    };
    let mut object = object.clone();
    let version = scale.pointer("/metadata/resourceVersion").cloned().unwrap_or(Value::Null);
    fairway_api::merge(&mut object, &json!({"spec": {"replicas": replicas}, "metadata": {"resourceVersion": version}}));
    Ok(object)
}

fn update(inner: &Inner, call: &Call<'_>, target: &Target<'_>, name: &str, sub: &str) -> Result<Answer, Refusal> {
    let sent = body(call)?;
    let api = inner.api();
    let old = existing(&api, target, name)?;
    let object = if sub == "scale" { scaled(&old, &sent)? } else { received(sent, target)? };
    replaced(inner, call, target, (name, sub), api, Some(&old), object)
}

/// Stores what became of an object, and answers it.
fn replaced(
    inner: &Inner,
    call: &Call<'_>,
    target: &Target<'_>,
    (name, sub): (&str, &str),
    mut api: MutexGuard<'_, Api>,
    old: Option<&Value>,
    mut object: Value,
) -> Result<Answer, Refusal> {
    let resource = target.resource;
    let warnings = warnings(call, resource, &object)?;
    if let Some(old) = old {
        managed::written(old, &mut object);
    }
    let at = (resource.kind, target.namespace, name);
    let part = if sub == "status" { Part::Status } else { Part::Whole };
    let stored = api.replace(inner.now(), at, object, part, dry_run(call)).map_err(refused(resource))?;
    drop(api);
    let answer = match sub {
        "scale" => scale_of(&stored),
        _ => shown(&stored, resource, &view(call)?, &inner.timestamp()),
    };
    Ok(Answer::Warned(200, answer, warnings))
}

fn patched(inner: &Inner, call: &Call<'_>, target: &Target<'_>, name: &str, sub: &str) -> Result<Answer, Refusal> {
    if call.content_type == "application/apply-patch+yaml" {
        return applied(inner, call, target, name, sub);
    }
    let resource = target.resource;
    let change = patch::read(call.content_type, call.body)?;
    let api = inner.api();
    let old = existing(&api, target, name)?;
    let mut object = if sub == "scale" { scale_of(&old) } else { plain(&old, resource) };
    change.apply(&mut object, resource)?;
    let object = if sub == "scale" { scaled(&old, &object)? } else { received(object, target)? };
    replaced(inner, call, target, (name, sub), api, Some(&old), object)
}

/// Server-side apply.
fn applied(inner: &Inner, call: &Call<'_>, target: &Target<'_>, name: &str, sub: &str) -> Result<Answer, Refusal> {
    let resource = target.resource;
    if sub == "scale" {
        return Err(Refusal::new(415, "UnsupportedMediaType", "a Scale cannot be applied"));
    }
    let manager = call.query.get("fieldManager");
    if manager.is_empty() {
        return Err(Refusal::bad("fieldManager: Required value: is required for apply patch"));
    }
    let mut configuration = received(body(call)?, target)?;
    let given = configuration.pointer("/metadata/name").and_then(Value::as_str);
    if given.is_some_and(|given| given != name) {
        return Err(Refusal::bad("the name of the object does not match the name on the URL"));
    }
    fairway_api::merge(&mut configuration, &json!({"metadata": {"name": name}}));
    let now = inner.timestamp();
    let manager = managed::Manager {
        name: manager,
        force: call.query.flag("force"),
        api_version: &resource.api_version(),
        subresource: sub,
        now: &now,
    };
    let mut api = inner.api();
    let old = api.object(resource.kind, target.namespace, name);
    let mut object = old.as_deref().cloned().unwrap_or_else(|| json!({}));
    managed::apply(resource.kind, &mut object, &configuration, &manager)?;
    if old.is_some() {
        return replaced(inner, call, target, (name, sub), api, None, object);
    }
    if sub == "status" || (resource.namespaced() && target.namespace.is_empty()) {
        existing(&api, target, name)?;
    }
    let warnings = warnings(call, resource, &object)?;
    let stored = api.create(inner.now(), resource.kind, target.namespace, object, dry_run(call));
    let stored = stored.map_err(refused(resource))?;
    drop(api);
    Ok(Answer::Warned(201, shown(&stored, resource, &view(call)?, &inner.timestamp()), warnings))
}

fn delete_options(call: &Call<'_>) -> Result<DeleteOptions, Refusal> {
    let sent = if call.body.is_empty() { Value::Null } else { body(call)? };
    let text = |path: &str| sent.pointer(path).and_then(Value::as_str).map(String::from);
    let grace = match sent.get("gracePeriodSeconds").and_then(Value::as_u64) {
        Some(grace) => Some(grace),
        None => call.query.number("gracePeriodSeconds")?,
    };
    let dry = sent.get("dryRun").and_then(Value::as_array).is_some_and(|l| l.iter().any(|v| v == "All"));
    Ok(DeleteOptions {
        grace: grace.map(Duration::from_secs),
        uid: text("/preconditions/uid"),
        version: text("/preconditions/resourceVersion"),
        dry_run: dry || dry_run(call),
    })
}

fn success(object: &Value, resource: &Resource) -> Value {
    let (_, name) = name_of(object);
    let details = json!({
        "name": name, "group": resource.group, "kind": resource.plural, "uid": object.pointer("/metadata/uid"),
    });
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn delete(inner: &Inner, call: &Call<'_>, target: &Target<'_>, name: &str) -> Result<Answer, Refusal> {
    let resource = target.resource;
    let options = delete_options(call)?;
    let at = (resource.kind, target.namespace, name);
    let (object, gone) = inner.api().delete_with(inner.now(), at, &options).map_err(refused(resource))?;
    let now = inner.timestamp();
    let answer = if gone { success(&object, resource) } else { shown(&object, resource, &view(call)?, &now) };
    Ok(Answer::Json(200, answer))
}

fn delete_all(inner: &Inner, call: &Call<'_>, target: &Target<'_>) -> Result<Answer, Refusal> {
    let resource = target.resource;
    let selector = selector(call, target)?;
    let options = delete_options(call)?;
    let mut api = inner.api();
    let chosen: Vec<Arc<Value>> =
        api.objects(resource.kind, target.namespace).filter(|o| selector.matches(o)).collect();
    let now = inner.now();
    for object in &chosen {
        let (namespace, name) = name_of(object);
        match api.delete_with(now, (resource.kind, namespace, name), &options) {
            // What went with an earlier one is gone as well.
            Ok(_) | Err(ApiError::NotFound { .. }) => {}
            Err(error) => return Err(Refusal::from_api(error, resource)),
        }
    }
    let items: Vec<Value> = chosen.iter().map(|o| plain(o, resource)).collect();
    let version = api.version().to_string();
    Ok(Answer::Json(
        200,
        json!({
            "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": version}, "items": items,
        }),
    ))
}

/// `kubectl drain` asks for the eviction of a pod, which is a deletion as long as no disruption budget says otherwise.
fn evict(inner: &Inner, call: &Call<'_>, target: &Target<'_>, name: &str) -> Result<Answer, Refusal> {
    let resource = target.resource;
    let sent = body(call)?;
    let grace = sent.pointer("/deleteOptions/gracePeriodSeconds").and_then(Value::as_u64).map(Duration::from_secs);
    let options = DeleteOptions { grace, dry_run: dry_run(call), ..DeleteOptions::default() };
    let at = (resource.kind, target.namespace, name);
    let (object, _) = inner.api().delete_with(inner.now(), at, &options).map_err(refused(resource))?;
    let mut answer = success(&object, resource);
    answer["code"] = json!(201);
    Ok(Answer::Json(201, answer))
}
