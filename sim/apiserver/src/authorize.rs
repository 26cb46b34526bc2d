//! What service accounts may do, by the cluster's own roles and bindings (RBAC). Whoever has the server's token, or
//! comes where none is wanted, may do everything, as a cluster's administrator.

use fairway_api::Api;
use hyper::Method;
use serde_json::Value;

use crate::request::{Query, Target};
use crate::status::Refusal;

/// A service account that may send requests with a token of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The bearer token of its requests.
    pub token: String,
}

/// What a request wants to do, in the words of a role's rule.
struct Wanted<'a> {
    verb: &'static str,
    group: &'a str,
    /// With the subresource: `services/status`.
    resource: String,
    namespace: &'a str,
    name: Option<&'a str>,
}

fn verb(method: &Method, target: &Target<'_>, query: &Query) -> &'static str {
    match (method, target.name) {
        (&Method::GET | &Method::HEAD, _) if query.flag("watch") => "watch",
        (&Method::GET | &Method::HEAD, Some(_)) => "get",
        (&Method::GET | &Method::HEAD, None) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, None) => "deletecollection",
        _ => "delete",
    }
}

/// Whether a list of a rule has a word.
fn has(rule: &Value, field: &str, word: &str) -> bool {
    rule[field].as_array().is_some_and(|all| all.iter().any(|one| one == "*" || one == word))
}

fn grants(rule: &Value, wanted: &Wanted<'_>) -> bool {
    let names = rule["resourceNames"].as_array().filter(|names| !names.is_empty());
    // Names do not restrict what has no name yet, so such a rule does not allow it.
    let named = names.is_none_or(|names| wanted.name.is_some_and(|name| names.iter().any(|one| one == name)));
    named
        && has(rule, "verbs", wanted.verb)
        && has(rule, "apiGroups", wanted.group)
        && has(rule, "resources", &wanted.resource)
}

fn is_about(binding: &Value, account: &ServiceAccount) -> bool {
    let groups = ["system:authenticated".to_string(), "system:serviceaccounts".to_string()];
    let own = format!("system:serviceaccounts:{}", account.namespace);
    binding["subjects"].as_array().is_some_and(|subjects| {
        subjects.iter().any(|subject| match subject["kind"].as_str() {
            Some("ServiceAccount") => {
                subject["name"] == account.name.as_str() && subject["namespace"] == account.namespace.as_str()
            }
            Some("Group") => {
                subject["name"].as_str().is_some_and(|name| name == own || groups.iter().any(|g| g == name))
            }
            _ => false,
        })
    })
}

fn role_grants(api: &Api, binding: &Value, wanted: &Wanted<'_>) -> bool {
    let role = &binding["roleRef"];
    let name = role["name"].as_str().unwrap_or_default();
    let role = match role["kind"].as_str() {
        Some("ClusterRole") => api.get("ClusterRole", "", name),
        Some("Role") => api.get("Role", binding["metadata"]["namespace"].as_str().unwrap_or_default(), name),
        _ => None,
    };
    let rules = role.and_then(|role| role["rules"].as_array());
    rules.is_some_and(|rules| rules.iter().any(|rule| grants(rule, wanted)))
}

fn allowed(api: &Api, account: &ServiceAccount, wanted: &Wanted<'_>) -> bool {
    let cluster = api.list("ClusterRoleBinding");
    let own = api
        .list("RoleBinding")
        .filter(|binding| !wanted.namespace.is_empty() && binding["metadata"]["namespace"] == wanted.namespace);
    cluster.chain(own).any(|binding| is_about(binding, account) && role_grants(api, binding, wanted))
}

/// Whether a service account may do what a request asks for. What tells of the server, such as discovery, everybody may
/// read.
///
/// # Errors
/// The refusal, as the real server words it.
pub(crate) fn authorize(
    api: &Api,
    account: &ServiceAccount,
    method: &Method,
    path: &str,
    query: &Query,
) -> Result<(), Refusal> {
    let segments: Vec<&str> = path.split('/').skip(1).filter(|s| !s.is_empty()).collect();
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Ok(()),
    };
    // What is no path is refused for that reason.
    let Ok(target) = Target::parse(group, version, rest) else { return Ok(()) };
    let sub = if target.sub.is_empty() { String::new() } else { format!("/{}", target.sub) };
    let wanted = Wanted {
        verb: verb(method, &target, query),
        group,
        resource: format!("{}{sub}", target.resource.plural),
        namespace: target.namespace,
        name: target.name,
    };
    if allowed(api, account, &wanted) {
        return Ok(());
    }
    let user = format!("system:serviceaccount:{}:{}", account.namespace, account.name);
    let place = if wanted.namespace.is_empty() {
        "at the cluster scope".to_string()
    } else {
        format!("in the namespace {:?}", wanted.namespace)
    };
    let name = wanted.name.map(|name| format!(" {name:?}")).unwrap_or_default();
    let message = format!(
        "{}{name} is forbidden: User {user:?} cannot {} resource {:?} in API group {group:?} {place}",
        target.resource.qualified(),
        wanted.verb,
        wanted.resource
    );
    Err(Refusal::new(403, "Forbidden", message))
}
