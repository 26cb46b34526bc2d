//! A folder of manifests, as its user edits it.

mod folder;

use fairway_backend_kube::{Changes, Manifests};
use fairway_objects::{Delta, Kind, Object};
use folder::Folder;

fn service(name: &str, port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
}

/// `+Service default/web`, `-…`, `!…` in order; lists as `[` and `]`.
fn said(changes: &Changes) -> Vec<String> {
    let one = |delta: &Delta| match delta {
        Delta::Put { object, .. } => format!("+{}", object.key()),
        Delta::Invalid { key, .. } => format!("!{key}"),
        Delta::Del(key) => format!("-{key}"),
        Delta::Relist(kind) => format!("[{kind}"),
        Delta::Listed(kind) => format!("{kind}]"),
    };
    changes.deltas.iter().map(one).collect()
}

fn port(changes: &Changes) -> Option<u16> {
    changes.deltas.iter().find_map(|delta| match delta {
        Delta::Put { object: Object::Service(service), .. } => service.ports.first().map(|p| p.port),
        _ => None,
    })
}

#[test]
fn the_first_look_lists_everything_and_later_ones_say_what_changed() {
    let folder = Folder::new("list");
    folder.write("b.yaml", &format!("{}---\n{}", service("web", 80), service("db", 5432)));
    folder.write("notes.txt", "nothing of ours");
    let mut manifests = Manifests::new(&folder.0);
    let first = manifests.poll().expect("readable");
    let words = said(&first);
    for kind in Kind::ALL {
        assert!(words.contains(&format!("[{kind}")) && words.contains(&format!("{kind}]")), "{words:?}");
    }
    assert_eq!(words.iter().filter(|w| w.starts_with('+')).count(), 2, "{words:?}");
    assert_eq!(manifests.poll().expect("readable"), Changes::default());

    folder.write("b.yaml", &service("web", 8080));
    let next = manifests.poll().expect("readable");
    assert_eq!(said(&next), ["-Service default/db", "+Service default/web"]);
    assert_eq!(port(&next), Some(8080));
    std::fs::remove_file(folder.0.join("b.yaml")).expect("it is there");
    assert_eq!(said(&manifests.poll().expect("readable")), ["-Service default/web"]);
}

#[test]
fn of_two_files_the_first_by_name_counts_and_the_second_takes_over() {
    let folder = Folder::new("two");
    folder.write("1.yaml", &service("web", 81));
    folder.write("2.yaml", &service("web", 8082));
    let mut manifests = Manifests::new(&folder.0);
    assert_eq!(port(&manifests.poll().expect("readable")), Some(81));
    std::fs::remove_file(folder.0.join("1.yaml")).expect("it is there");
    assert_eq!(port(&manifests.poll().expect("readable")), Some(8082));
}

#[test]
fn a_slip_takes_nothing_away_and_is_named_with_its_line() {
    let folder = Folder::new("slip");
    folder.write("web.yaml", &format!("{}---\n{}", service("web", 80), service("db", 5432)));
    let mut manifests = Manifests::new(&folder.0);
    manifests.poll().expect("readable");
    folder.write("web.yaml", &format!("{}---\napiVersion: v1\nkind: [\n", service("web", 8080)));
    let next = manifests.poll().expect("readable");
    assert_eq!(said(&next), ["+Service default/web"]);
    assert_eq!(next.troubles.len(), 1, "{:?}", next.troubles);
    assert!(next.troubles[0].to_string().contains("web.yaml:"), "{}", next.troubles[0]);
    assert!(next.troubles[0].line >= 6, "{:?}", next.troubles);
    folder.write("web.yaml", &service("web", 8081));
    assert_eq!(said(&manifests.poll().expect("readable")), ["-Service default/db", "+Service default/web"]);
}

#[test]
fn what_is_not_for_a_node_is_passed_over_and_said() {
    let folder = Folder::new("other");
    folder.write(
        "all.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\nname: a scenario\n---\napiVersion: v1\nkind: \
         Service\nmetadata: {name: bad}\nspec: {ports: many}\n",
    );
    let mut manifests = Manifests::new(&folder.0);
    let first = manifests.poll().expect("readable");
    assert!(said(&first).contains(&"!Service default/bad".to_string()), "{:?}", said(&first));
    let troubles: Vec<String> = first.troubles.iter().map(ToString::to_string).collect();
    assert!(troubles[0].contains("all.yaml:1: a node has no use for a Deployment"), "{troubles:?}");
    assert!(troubles[1].contains("all.yaml:5: not a Kubernetes object"), "{troubles:?}");
    let missing = Manifests::new(folder.0.join("nowhere")).poll().expect_err("no folder").to_string();
    assert!(missing.contains("nowhere"), "{missing}");
}
