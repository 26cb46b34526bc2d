//! An API server at its worst, and what the watches make of it.

mod folder;
mod server;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_backend_kube::{Access, Cluster, Obstacle, Start};
use fairway_objects::Kind;
use folder::Folder;
use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use server::{
    Answer, Client, Server, bookmark, cut, dribble, event, lines, list, no_streams, service, status, until_closed,
    whole,
};

/// A list without streams, then what follows.
fn listed(version: u64, items: &[String], rest: Vec<Answer>) -> Vec<Answer> {
    let mut script = vec![no_streams(), list(version, "", items)];
    script.extend(rest);
    script
}

#[test]
fn a_server_with_streams_is_asked_for_one_and_the_watch_goes_on_in_it() {
    let server = Server::start(vec![lines(&[
        event("ADDED", &service("web", 900, 80)),
        event("ADDED", &service("db", 3, 5432)),
        bookmark(1000, true),
        event("MODIFIED", &service("web", 1001, 8080)),
        event("DELETED", &service("db", 1002, 5432)),
    ])]);
    let client = Client::start(server.address);
    client.says(&["[", "+web:80", "+db:5432", "]", "+web:8080", "-db"]);
    let first = server.request();
    assert!(first.uri.starts_with("/api/v1/services?watch=true"), "{first:?}");
    assert_eq!(first.parameter("sendInitialEvents"), Some("true"));
    assert_eq!(first.parameter("resourceVersionMatch"), Some("NotOlderThan"));
    assert!(first.headers.iter().any(|h| h.to_lowercase().starts_with("user-agent: fairway/")), "{first:?}");
    // The server closed it in order, so the next one begins where it ended.
    let next = server.request();
    assert_eq!((next.parameter("resourceVersion"), next.parameter("sendInitialEvents")), (Some("1002"), None));
    client.no_notice();
    let health = &client.cluster.health().kinds[&Kind::Service];
    assert!(health.listed && health.lists == 1 && health.events == 5 && health.failures == 0, "{health:?}");
}

#[test]
fn a_server_without_streams_is_listed_page_by_page() {
    let server = Server::start(vec![
        no_streams(),
        list(40, "to be continued", &[service("a", 1, 1), service("b", 2, 2)]),
        list(40, "", &[service("c", 3, 3)]),
        lines(&[event("ADDED", &service("d", 41, 4))]),
    ]);
    let client = Client::start(server.address);
    client.says(&["[", "+a:1", "+b:2", "+c:3", "]", "+d:4"]);
    assert_eq!(server.request().parameter("sendInitialEvents"), Some("true"));
    assert_eq!(server.request().parameter("limit"), Some("500"));
    assert_eq!(server.request().parameter("continue"), Some("to%20be%20continued"));
    assert_eq!(server.request().parameter("resourceVersion"), Some("40"));
    client.no_notice();
}

#[test]
fn pages_that_expire_between_are_listed_from_the_beginning() {
    let server = Server::start(vec![
        no_streams(),
        list(40, "more", &[service("a", 1, 1)]),
        whole("410 Gone", "", status(410, "Expired", "the continue token is too old")),
        list(50, "", &[service("b", 45, 2)]),
    ]);
    let client = Client::start(server.address);
    client.says(&["[", "+a:1", "[", "+b:2", "]"]);
}

#[test]
fn a_connection_that_ends_in_the_middle_of_a_line_is_taken_up_after_the_last_whole_one() {
    let half = &event("ADDED", &service("never", 12, 1))[..30];
    let whole_line = event("ADDED", &service("b", 11, 2));
    let server = Server::start(listed(
        10,
        &[service("a", 1, 1)],
        vec![
            cut(format!("{whole_line}\n{half}")),
            list(20, "", &[]),
            until_closed(format!("\n{half}")),
            list(20, "", &[]),
        ],
    ));
    let client = Client::start(server.address);
    client.says(&["[", "+a:1", "]", "+b:2"]);
    let _probe = (server.request(), server.request());
    let asked = || {
        let request = server.request();
        ["resourceVersion", "limit"].map(|name| request.parameter(name).unwrap_or_default().to_string())
    };
    // Between, one object, for the sake of the version.
    for wanted in [["10", ""], ["", "1"], ["11", ""], ["", "1"], ["11", ""]] {
        assert_eq!(asked(), wanted);
    }
    client.says_no_more();
    client.no_notice();
}

#[test]
fn a_version_that_is_gone_leads_to_a_list_and_not_to_an_empty_cluster() {
    let told = lines(&[event("ADDED", &service("b", 11, 2)), event("ERROR", &status(410, "Expired", "too old"))]);
    let refused = whole("410 Gone", "", status(410, "Expired", "too old resource version"));
    for (gone, before) in [(told, vec!["+b:2"]), (refused, vec![])] {
        // The refusal of streams is remembered, so the next list is a plain one.
        let again = list(500, "", &[service("c", 400, 3)]);
        let server = Server::start(listed(10, &[service("a", 1, 1)], vec![gone, again]));
        let client = Client::start(server.address);
        client.says(&[&["[", "+a:1", "]"], &before[..], &["[", "+c:3", "]"]].concat());
        let _three = (server.request(), server.request(), server.request());
        let list = server.request();
        assert_eq!((list.parameter("limit"), list.parameter("resourceVersion")), (Some("500"), None));
        assert_eq!(server.request().parameter("resourceVersion"), Some("500"));
        client.no_notice();
    }
}

#[test]
fn bookmarks_move_the_version_from_which_the_watch_goes_on() {
    let server = Server::start(listed(10, &[], vec![lines(&[bookmark(99, false)])]));
    let client = Client::start(server.address);
    client.says(&["[", "]"]);
    let _before = (server.request(), server.request(), server.request());
    assert_eq!(server.request().parameter("resourceVersion"), Some("99"));
}

#[test]
fn repeated_and_old_events_change_nothing_and_an_old_deletion_is_looked_into() {
    let server = Server::start(listed(
        10,
        &[service("a", 1, 1)],
        vec![
            lines(&[
                event("MODIFIED", &service("a", 12, 2)),
                event("MODIFIED", &service("a", 12, 2)),
                event("MODIFIED", &service("a", 11, 9)),
                event("DELETED", &service("b", 13, 1)),
                event("DELETED", &service("b", 13, 1)),
                event("DELETED", &service("a", 5, 1)),
            ]),
            list(20, "", &[service("a", 12, 2)]),
        ],
    ));
    let client = Client::start(server.address);
    client.says(&["[", "+a:1", "]", "+a:2", "-b", "[", "+a:2", "]"]);
    client.says_no_more();
    assert_eq!(client.cluster.health().kinds[&Kind::Service].stale, 4);
}

#[test]
fn a_server_whose_history_went_back_is_listed_anew() {
    let server = Server::start(listed(
        1000,
        &[service("a", 999, 1)],
        vec![
            lines(&[bookmark(40, false)]),
            list(41, "", &[service("b", 30, 2)]),
            lines(&[event("ADDED", &service("c", 42, 3))]),
        ],
    ));
    let client = Client::start(server.address);
    client.says(&["[", "+a:1", "]", "[", "+b:2", "]", "+c:3"]);
    client.no_notice();
}

#[test]
fn one_bad_object_hides_nothing() {
    let bad = r#"{"metadata":{"name":"bad","namespace":"default","resourceVersion":"11"},"spec":{"ports":"many"}}"#;
    let nameless = r#"{"metadata":{"resourceVersion":"12"},"spec":{}}"#;
    let server = Server::start(listed(
        10,
        &[bad.into(), "7".into(), nameless.into(), service("a", 1, 1)],
        vec![lines(&[
            event("MODIFIED", bad),
            event("MODIFIED", nameless),
            event("ADDED", "[]"),
            event("ADDED", &service("b", 13, 2)),
        ])],
    ));
    let client = Client::start(server.address);
    client.says(&["[", "!bad", "+a:1", "]", "!bad", "+b:2"]);
    // The watch that follows shows that all was counted.
    let _before = (server.request(), server.request(), server.request());
    assert_eq!(server.request().parameter("resourceVersion"), Some("13"));
    assert_eq!(client.cluster.health().kinds[&Kind::Service].nameless, 4);
}

#[test]
fn a_line_that_is_no_event_is_said_and_what_came_before_counts() {
    let server = Server::start(listed(
        10,
        &[],
        vec![
            lines(&[event("ADDED", &service("a", 11, 1)), "<html>".into()]),
            list(11, "", &[]),
            lines(&[event("ADDED", &service("b", 12, 2))]),
        ],
    ));
    let client = Client::start(server.address);
    client.says(&["[", "]", "+a:1", "+b:2"]);
    let notice = client.notice();
    assert!(notice.starts_with("+ API server http://127.0.0.1:"), "{notice}");
    assert!(notice.contains(": services: the answer cannot be read since 20"), "{notice}");
    assert!(client.notice().starts_with("- "));
}

#[test]
fn a_server_that_ends_every_watch_after_a_word_does_not_set_the_pace() {
    let word = |version| lines(&[bookmark(version, false)]);
    let server = Server::start(listed(10, &[], vec![word(11), word(12)]));
    let client = Client::start(server.address);
    client.says(&["[", "]"]);
    let _lists = (server.request(), server.request());
    let begin = Instant::now();
    let _watches = (server.request(), server.request(), server.request());
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    client.no_notice();
}

#[test]
fn a_slow_server_is_waited_for() {
    let server =
        Server::start(listed(10, &[], vec![dribble(&[event("ADDED", &service("a", 11, 1)), bookmark(12, false)])]));
    let client = Client::start(server.address);
    client.says(&["[", "]", "+a:1"]);
    let _before = (server.request(), server.request(), server.request());
    assert_eq!(server.request().parameter("resourceVersion"), Some("12"));
}

#[test]
fn retry_after_is_obeyed() {
    let busy = || whole("429 Too Many Requests", "Retry-After: 1\r\n", "slow down");
    let server = Server::start(vec![busy(), lines(&[bookmark(5, true)])]);
    let begin = Instant::now();
    let client = Client::start(server.address);
    let notice = client.notice();
    assert!(notice.contains("services: refused since") && notice.contains("slow down"), "{notice}");
    client.says(&["[", "]"]);
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(client.notice().starts_with("- "));
}

#[test]
fn a_missing_permission_is_named_and_asked_for_again() {
    let forbidden = || {
        whole(
            "403 Forbidden",
            "",
            status(
                403,
                "Forbidden",
                r#"User \"system:serviceaccount:kube-system:fairway\" cannot list resource \"services\""#,
            ),
        )
    };
    let server = Server::start(vec![forbidden(), forbidden(), list(7, "", &[service("a", 1, 1)])]);
    let client = Client::start(server.address);
    let notice = client.notice();
    assert!(notice.contains("services: we may not read them since 20"), "{notice}");
    assert!(notice.contains(r#"cannot list resource "services"; what is known stays in effect"#), "{notice}");
    let missing = client.cluster.health().missing();
    assert!(missing.len() == 1 && missing[0].starts_with("services: we may not read them"), "{missing:?}");
    client.says(&["[", "+a:1", "]"]);
    // The watch is held open by the server, so the permission is there.
    let _all = (server.request(), server.request(), server.request(), server.request());
    assert!(client.cluster.health().missing().is_empty());
}

#[test]
fn what_may_be_listed_and_not_watched_is_listed_again_and_again() {
    let forbidden = || whole("403 Forbidden", "", status(403, "Forbidden", "cannot watch services"));
    let server = Server::start(vec![
        forbidden(),
        list(7, "", &[service("a", 1, 1)]),
        forbidden(),
        list(9, "", &[service("a", 8, 2)]),
        forbidden(),
        list(11, "", &[]),
    ]);
    let client = Client::start(server.address);
    client.says(&["[", "+a:1", "]", "[", "+a:2", "]", "[", "]"]);
    let notice = client.notice();
    assert!(notice.starts_with("+ ") && notice.contains("cannot watch services"), "{notice}");
    // It stands all the time and is not said again.
    client.no_notice();
}

#[test]
fn a_server_that_cannot_be_reached_at_the_start_is_waited_for() {
    let address = {
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port");
        port.local_addr().expect("bound")
    };
    let client = Client::start(address);
    let notice = client.notice();
    assert!(notice.contains(": unreachable since 20") && notice.contains("onnection refused"), "{notice}");
    assert!(client.cluster.health().missing()[0].contains("onnection refused"));
    client.says_no_more();
    let _server = Server::at(address, vec![lines(&[event("ADDED", &service("a", 1, 1)), bookmark(5, true)])]);
    client.says(&["[", "+a:1", "]"]);
    assert_eq!(client.notice().replacen('-', "+", 1), notice);
}

#[test]
fn a_server_that_goes_away_takes_nothing_with_it_and_the_watch_goes_on_when_it_is_back() {
    let server = Server::start(vec![lines(&[event("ADDED", &service("a", 1, 1)), bookmark(5, true)])]);
    let address = server.address;
    let client = Client::start(address);
    client.says(&["[", "+a:1", "]"]);
    let _both = (server.request(), server.request());
    assert_eq!(client.cluster.health().kinds[&Kind::Service].behind_since, None);
    drop(server);
    let notice = client.notice();
    assert!(notice.contains("unreachable since") && notice.ends_with("what is known stays in effect"), "{notice}");
    let health = &client.cluster.health().kinds[&Kind::Service];
    assert_eq!(health.obstacle.as_ref().map(|o| o.obstacle), Some(Obstacle::Unreachable));
    let hour = Duration::from_secs(3600);
    assert!(health.lag(health.behind_since.expect("behind") + hour) == hour);
    client.says_no_more();
    let server = Server::at(address, vec![list(6, "", &[]), lines(&[event("ADDED", &service("b", 6, 2))])]);
    client.says(&["+b:2"]);
    assert_eq!(server.request().parameter("limit"), Some("1"));
    assert_eq!(server.request().parameter("resourceVersion"), Some("5"));
    assert_eq!(client.notice().replacen('-', "+", 1), notice);
    client.says_no_more();
}

#[test]
fn a_server_that_comes_back_with_an_older_store_is_listed_anew() {
    let server = Server::start(vec![lines(&[event("ADDED", &service("a", 1, 1)), bookmark(500, true)])]);
    let address = server.address;
    let client = Client::start(address);
    client.says(&["[", "+a:1", "]"]);
    let _both = (server.request(), server.request());
    drop(server);
    let _unreachable = client.notice();
    let anew = lines(&[event("ADDED", &service("b", 3, 2)), bookmark(4, true)]);
    let _server = Server::at(address, vec![list(4, "", &[service("b", 3, 2)]), anew]);
    client.says(&["[", "+b:2", "]"]);
}

#[test]
fn a_token_that_was_replaced_is_read_again() {
    let folder = Folder::new("token");
    folder.write("token", "old");
    let (replace, refuse) =
        (folder.0.join("token"), whole("401 Unauthorized", "", status(401, "Unauthorized", "who?")));
    let expire: Answer = Box::new(move |stream| std::fs::write(replace, "new").and_then(|()| refuse(stream)));
    let server = Server::start(vec![expire, lines(&[bookmark(5, true)])]);
    let users = "[{name: c, user: {tokenFile: token}}]";
    let file = kubeconfig(&folder, &format!("server: 'http://{}'", server.address), users);
    let client = Client::with(Access::new("", &file));
    let bearer = |wanted: &str| {
        let request = server.request();
        let wanted = format!("authorization: bearer {wanted}");
        assert!(request.headers.iter().any(|h| h.to_lowercase() == wanted), "{request:?}");
    };
    bearer("old");
    bearer("new");
    assert!(client.notice().contains(": our credentials are not accepted since"));
    client.says(&["[", "]"]);
    assert!(client.notice().starts_with("- "));
}

/// A certificate that vouches for itself, and its key.
fn certificate(name: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed([name.to_string()]).expect("a certificate")
}

/// A server of this certificate that lets in clients of that one.
fn tls(own: &CertifiedKey<KeyPair>, client: &CertifiedKey<KeyPair>) -> Option<Arc<ServerConfig>> {
    let mut clients = RootCertStore::empty();
    clients.add(client.cert.der().clone()).expect("a certificate");
    let verifier = WebPkiClientVerifier::builder(Arc::new(clients)).build().expect("a verifier");
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .expect("a configuration");
    Some(Arc::new(config))
}

#[test]
fn certificates_that_rotate_are_read_again_on_both_sides() {
    let folder = Folder::new("tls");
    let user = |user: &CertifiedKey<KeyPair>| {
        folder.write("user.crt", &user.cert.pem());
        folder.write("user.key", &user.signing_key.serialize_pem());
    };
    let (first, second, alice, bob) =
        (certificate("127.0.0.1"), certificate("127.0.0.1"), certificate("alice"), certificate("bob"));
    folder.write("ca.crt", &first.cert.pem());
    user(&alice);
    let server = Server::with(
        "127.0.0.1:0".parse().expect("an address"),
        vec![lines(&[event("ADDED", &service("a", 1, 1)), bookmark(5, true)])],
        tls(&first, &alice),
    );
    let address = server.address;
    let cluster = format!("server: 'https://{address}', certificate-authority: ca.crt");
    let file = kubeconfig(&folder, &cluster, "[{name: c, user: {client-certificate: user.crt, client-key: user.key}}]");
    let client = Client::with(Access::new("", &file));
    client.says(&["[", "+a:1", "]"]);
    drop(server);
    let _refused = client.notice();

    let script = vec![list(6, "", &[]), lines(&[event("ADDED", &service("b", 6, 2))])];
    let server = Server::with(address, script, tls(&second, &bob));
    // Until the notice went, the reason that stands is the first one.
    client.says_no_more();
    folder.write("ca.crt", &second.cert.pem());
    user(&bob);
    client.says(&["+b:2"]);
    assert!(client.notice().starts_with("- "));
    drop(server);
}

#[test]
fn a_server_with_another_certificate_is_not_believed() {
    let folder = Folder::new("stranger");
    let (known, stranger) = (certificate("127.0.0.1"), certificate("127.0.0.1"));
    folder.write("ca.crt", &known.cert.pem());
    let script = vec![lines(&[bookmark(5, true)])];
    let server = Server::with("127.0.0.1:0".parse().expect("an address"), script, tls(&stranger, &known));
    let cluster = format!("server: 'https://{}', certificate-authority: ca.crt", server.address);
    let client = Client::with(Access::new("", &kubeconfig(&folder, &cluster, "[]")));
    let notice = client.notice();
    assert!(notice.contains("unreachable since") && notice.contains("certificate"), "{notice}");
    client.says_no_more();
}

/// Writes a kubeconfig and returns its path.
fn kubeconfig(folder: &Folder, cluster: &str, users: &str) -> String {
    folder.write(
        "kubeconfig",
        &format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: b, user: \
                 c}}}}]\nclusters: [{{name: b, cluster: {{{cluster}}}}}]\nusers: {users}\n"
        ),
    )
}

fn refused(access: Access) -> String {
    let start = Start { access, watched: vec![], seed: 1, notices: Box::new(|_| {}) };
    Cluster::start(start).expect_err("is refused").to_string()
}

#[test]
fn what_cannot_be_used_is_named_with_file_and_field() {
    let folder = Folder::new("wrong");
    let file = |master: &str, file: &str| refused(Access::new(master, file));
    let nowhere = folder.0.join("nowhere").display().to_string();
    assert_eq!(file("", &nowhere), format!("--kubeconfig {nowhere}: No such file or directory (os error 2)"));
    let check = |text: &str, wanted: &str| {
        let path = folder.write("kubeconfig", text);
        let said = file("", &path);
        assert!(said.starts_with(&format!("--kubeconfig {path}: ")) && said.contains(wanted), "{wanted} not in {said}");
    };
    check("clusters: {", ": line 1 column 11: expected sequence start");
    check("apiVersion: v1\nkind: Config\n", "current-context: missing");
    check("current-context: prod\n", "current-context: no context is called `prod`");
    check(
        "current-context: a\ncontexts: [{name: a, context: {cluster: b}}]\n",
        "contexts[].context.cluster: no cluster is called `b`",
    );
    let cluster = |cluster: &str, users: &str, wanted: &str| {
        let path = kubeconfig(&folder, cluster, users);
        let said = file("", &path);
        assert!(said.starts_with(&format!("--kubeconfig {path}: ")) && said.contains(wanted), "{wanted} not in {said}");
    };
    cluster("", "[]", "clusters[].cluster.server: missing");
    cluster("server: 'ftp://x'", "[]", "clusters[b].cluster.server: `ftp://x` is not a URL such as");
    cluster("server: 'https://x', proxy-url: 'http://y'", "[]", "clusters[b].cluster.proxy-url: proxies");
    let authority = "server: 'https://x', certificate-authority: ca.crt";
    cluster(authority, "[]", "clusters[].cluster.certificate-authority: failed to read file");
    folder.write("ca.crt", "no PEM");
    cluster(authority, "[]", "clusters[].cluster.certificate-authority: no certificate in PEM in it");
    folder.write("ca.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    cluster(authority, "[]", ": certificate authority: failed to add a root certificate");
    let user = "[{name: c, user: {client-certificate: c.crt, client-key: c.key}}]";
    cluster("server: 'https://x', insecure-skip-tls-verify: true", user, "users[].user.client-certificate: failed to");
    folder.write("c.crt", "no PEM");
    cluster("server: 'https://x', insecure-skip-tls-verify: true", user, "users[].user.client-key: failed to");
    folder.write("c.key", "no PEM");
    cluster("server: 'https://x', insecure-skip-tls-verify: true", user, ": client certificate and key: identity PEM");
    assert!(file("https://", "").starts_with("--master: `https://` is not a URL"));
    assert!(file("unix:///run/x", "").starts_with("--master: `unix:///run/x` is not a URL"));
    let pod = |in_cluster| Access { master: None, kubeconfig: None, service_account: folder.0.clone(), in_cluster };
    assert!(refused(pod(None)).starts_with("no API server: give --kubeconfig or --master"));
    let host = || Some(("10.96.0.1".to_string(), "443".to_string()));
    assert!(refused(pod(host())).ends_with("/token: No such file or directory (os error 2)"));
    folder.write("token", "secret");
    folder.write("ca.crt", "no PEM");
    assert!(refused(pod(host())).ends_with("/ca.crt: no certificate in PEM in it"));
    assert!(refused(pod(Some(("10.96.0.1".into(), "many".into())))).contains("KUBERNETES_SERVICE_PORT: `https://"));
}

#[test]
fn master_overrides_the_server_of_the_kubeconfig_and_needs_no_scheme() {
    let folder = Folder::new("master");
    let file = kubeconfig(&folder, "server: 'http://127.0.0.1:1'", "[]");
    let server = Server::start(vec![lines(&[bookmark(5, true)])]);
    let client = Client::with(Access::new(&server.address.to_string(), &file));
    assert_eq!(client.cluster.server(), format!("http://{}", server.address));
    client.says(&["[", "]"]);
}

#[test]
fn a_pods_token_is_not_sent_in_the_clear() {
    let folder = Folder::new("clear");
    folder.write("token", "secret");
    folder.write("ca.crt", "no PEM");
    let server = Server::start(vec![lines(&[bookmark(5, true)])]);
    let access = Access {
        master: Some(format!("http://{}", server.address)),
        kubeconfig: None,
        service_account: folder.0.clone(),
        in_cluster: None,
    };
    Client::with(access).says(&["[", "]"]);
    let request = server.request();
    assert!(!request.headers.iter().any(|h| h.to_lowercase().starts_with("authorization")), "{request:?}");
}
