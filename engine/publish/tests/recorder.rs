//! Which Events are written: by few nodes, not too many, and again while their cause stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairway_objects::{Kind, Notice, ObjectKey, Subject};
use fairway_publish::{Event, Limits, Recorder, Refusal};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn about(kind: Kind, name: &str, field: &str, reason: &str) -> Notice {
    let namespace = if kind == Kind::Node { "" } else { "default" };
    Notice {
        subject: Subject::Object(ObjectKey::new(kind, namespace, name)),
        field: field.into(),
        reason: reason.into(),
    }
}

fn recorder(node: &str, nodes: usize) -> Recorder {
    let mut recorder = Recorder::new(node.into(), Limits::default());
    for i in 0..nodes {
        recorder.node(&format!("n{i}").as_str().into(), true);
    }
    recorder.nodes_listed();
    recorder
}

/// A recorder of the only node.
fn alone() -> Recorder {
    recorder("n0", 1)
}

/// Lets time pass from `from` to `to` and answers everything with `answer`; what was asked, and when.
fn run(
    recorder: &mut Recorder,
    from: u64,
    to: u64,
    mut answer: impl FnMut(&Event) -> Result<(), Refusal>,
) -> Vec<(u64, Event)> {
    let mut asked = vec![];
    for second in from..to {
        while let Some(event) = recorder.poll(s(second)) {
            assert!(recorder.poll(s(second)).is_none(), "one at a time");
            let result = answer(&event);
            recorder.answer(s(second), &event.name, &result);
            asked.push((second, event));
        }
    }
    asked
}

#[test]
fn an_event_says_what_the_notice_says() {
    let mut recorder = alone();
    let field = "metadata.annotations[kube-router.io/service.dsr]";
    let notice = about(Kind::Service, "web", field, "`x` is not `tunnel`; ignored");
    recorder.raise(s(0), &notice, fairway_publish::reason(&notice), false);
    let asked = run(&mut recorder, 0, 5, |_| Ok(()));
    assert_eq!(asked.len(), 1, "{asked:?}");
    let event = &asked[0].1;
    assert!(event.warning);
    assert_eq!(&*event.reason, "IgnoredAnnotation");
    assert_eq!(*event.note, format!("{field}: `x` is not `tunnel`; ignored"));
    assert_eq!(&*event.instance, "n0");
    let (object, sum) = event.name.rsplit_once('.').expect("a sum");
    assert!(object == "web" && sum.len() == 16 && sum.bytes().all(|b| b.is_ascii_hexdigit()), "{}", event.name);
    // What has nothing to do with the API's objects is no Event.
    let flag = Notice { subject: Subject::Flag("v".into()), field: String::new(), reason: "no".into() };
    recorder.raise(s(5), &flag, "X", true);
    assert_eq!(run(&mut recorder, 5, 60, |_| Ok(())), []);
}

#[test]
fn long_texts_and_names_fit_what_the_api_takes() {
    let mut recorder = alone();
    let notice = about(Kind::Service, &"x".repeat(253), "", &"ä".repeat(1000));
    recorder.raise(s(0), &notice, "NotInEffect", false);
    let asked = run(&mut recorder, 0, 5, |_| Ok(()));
    assert!(asked[0].1.note.len() == 1024 && asked[0].1.name.len() <= 253, "{asked:?}");
}

/// The API server of a cluster in which every node sees the same.
fn cluster(nodes: usize, dead: &[&str], until: u64, notice: &Notice) -> (usize, BTreeMap<Arc<str>, u64>) {
    let mut all: Vec<(String, Recorder)> =
        (0..nodes).map(|i| format!("n{i}")).map(|name| (name.clone(), recorder(&name, nodes))).collect();
    all.retain(|(name, _)| !dead.contains(&name.as_str()));
    for (_, recorder) in &mut all {
        recorder.raise(s(0), notice, "NotInEffect", false);
    }
    let (mut requests, mut events) = (0, BTreeMap::new());
    for second in 0..until {
        for (_, recorder) in &mut all {
            run(recorder, second, second + 1, |event| {
                requests += 1;
                match events.get_mut(&event.name) {
                    Some(count) if event.again => {
                        *count += 1;
                        Ok(())
                    }
                    Some(_) => Err(Refusal::Conflict),
                    None => {
                        events.insert(event.name.clone(), 1);
                        Ok(())
                    }
                }
            });
        }
    }
    (requests, events)
}

/// The first of the nodes that writes about this.
fn first(nodes: usize, notice: &Notice, dead: &[&str]) -> Option<String> {
    (0..nodes).map(|i| format!("n{i}")).filter(|name| !dead.contains(&name.as_str())).find(|name| {
        let mut recorder = recorder(name, nodes);
        recorder.raise(s(0), notice, "NotInEffect", false);
        recorder.poll(s(0)).is_some()
    })
}

#[test]
fn of_a_thousand_nodes_three_ask_and_one_event_is_there() {
    let notice = about(Kind::Service, "web", "", "something");
    let (requests, events) = cluster(1000, &[], 60, &notice);
    assert_eq!((requests, events.len()), (3, 1));
    assert!(events.values().all(|count| *count == 1), "{events:?}");
    // While it stands it is counted every half hour, by one node.
    let (requests, events) = cluster(50, &[], 3700, &notice);
    assert_eq!((requests, events.values().sum::<u64>()), (5, 3));
    // Another notice is another's turn, so that the work is spread.
    let firsts: std::collections::BTreeSet<_> =
        (0..20).filter_map(|i| first(50, &about(Kind::Service, &format!("web{i}"), "", "x"), &[])).collect();
    assert!(firsts.len() > 10, "{firsts:?}");
}

#[test]
fn the_first_may_be_dead() {
    let notice = about(Kind::EndpointSlice, "web-1", "", "something");
    let dead = first(20, &notice, &[]).expect("somebody");
    let (requests, events) = cluster(20, &[&dead], 60, &notice);
    assert_eq!((requests, events.len()), (2, 1));
}

#[test]
fn each_node_writes_about_itself_and_the_leader_of_what_he_alone_sees() {
    let node = |name: &str| about(Kind::Node, name, "metadata.annotations[kube-router.io/peers]", "bad");
    for (i, name) in ["n0", "n7"].into_iter().enumerate() {
        let mut recorder = recorder(name, 1000);
        recorder.raise(s(0), &node("n7"), "IgnoredAnnotation", false);
        assert_eq!(run(&mut recorder, 0, 60, |_| Ok(())).len(), i, "{name}");
    }
    let mut leader = recorder("n3", 1000);
    leader.raise(s(0), &about(Kind::Service, "web", "", "no free address"), "NoFreeAddress", true);
    assert_eq!(run(&mut leader, 0, 60, |_| Ok(())).len(), 1);
}

#[test]
fn nothing_is_said_of_others_before_all_nodes_are_known() {
    let mut recorder = Recorder::new("n0".into(), Limits::default());
    recorder.raise(s(0), &about(Kind::Service, "web", "", "x"), "NotInEffect", false);
    assert_eq!(run(&mut recorder, 0, 10, |_| Ok(())), []);
    recorder.nodes_listed();
    assert_eq!(run(&mut recorder, 10, 20, |_| Ok(())).len(), 1);
}

#[test]
fn a_notice_that_comes_and_goes_is_counted_and_bounded() {
    let mut recorder = alone();
    let notice = about(Kind::Service, "web", "", "flaps");
    let mut asked = vec![];
    for second in 0..1000 {
        recorder.raise(s(second), &notice, "NotInEffect", false);
        asked.extend(run(&mut recorder, second, second + 1, |_| Ok(())));
        recorder.clear(&notice, "NotInEffect");
    }
    // 25 at once, and one in five minutes.
    assert_eq!(asked.len(), 25 + 3, "{asked:?}");
    assert!(asked.iter().skip(1).all(|(_, event)| event.again && event.name == asked[0].1.name));
    // What does not stand any more is not written.
    assert_eq!(run(&mut recorder, 1000, 9000, |_| Ok(())), []);
}

#[test]
fn many_notices_wait_for_each_other_and_none_is_lost() {
    let mut recorder = alone();
    for i in 0..300 {
        recorder.raise(s(0), &about(Kind::Service, &format!("s{i}"), "", "x"), "NotInEffect", false);
    }
    let asked = run(&mut recorder, 0, 1, |_| Ok(()));
    assert_eq!(asked.len(), 100);
    assert_eq!(run(&mut recorder, 1, 101, |_| Ok(())).len(), 100, "one in a second");
    assert_eq!(run(&mut recorder, 101, 301, |_| Ok(())).len(), 100);
    // Of one object, 25 and then one in five minutes.
    let mut recorder = alone();
    for i in 0..27 {
        recorder.raise(s(0), &about(Kind::Service, "s", "", &format!("x{i}")), "NotInEffect", false);
    }
    assert_eq!(run(&mut recorder, 0, 299, |_| Ok(())).len(), 25);
    assert_eq!(run(&mut recorder, 299, 700, |_| Ok(())).len(), 2);
}

#[test]
fn what_happened_is_dropped_when_there_is_too_much_of_it() {
    let mut recorder = alone();
    for i in 0..2000 {
        recorder.happened(&ObjectKey::new(Kind::Service, "default", &format!("s{i}")), "AddressGiven", "x");
    }
    assert_eq!(recorder.counts(), (0, 1000));
    assert_eq!(run(&mut recorder, 0, 2000, |_| Ok(())).len(), 1000);
    assert_eq!(recorder.counts(), (1000, 1000));
}

#[test]
fn you_may_not_is_no_storm() {
    let mut recorder = alone();
    for i in 0..50 {
        recorder.raise(s(0), &about(Kind::Service, &format!("s{i}"), "", "x"), "NotInEffect", false);
    }
    let forbidden = |_: &Event| Err(Refusal::Forbidden("events is forbidden".into()));
    assert_eq!(run(&mut recorder, 0, 599, forbidden).len(), 1);
    assert_eq!(recorder.trouble(), Some("events is forbidden"));
    assert_eq!(run(&mut recorder, 599, 1199, forbidden).len(), 1);
    // The permission is there, and all are written.
    assert_eq!(run(&mut recorder, 1199, 1300, |_| Ok(())).len(), 50);
    assert_eq!(recorder.trouble(), None);
}

#[test]
fn a_server_that_is_away_is_asked_less_and_less() {
    let mut recorder = alone();
    recorder.raise(s(0), &about(Kind::Service, "s", "", "x"), "NotInEffect", false);
    let away = |_: &Event| Err(Refusal::Unreachable { reason: "refused".into(), after: None });
    let times: Vec<u64> = run(&mut recorder, 0, 200, away).into_iter().map(|(at, _)| at).collect();
    assert_eq!(times, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    let later = |_: &Event| Err(Refusal::Unreachable { reason: "429".into(), after: Some(s(100)) });
    assert_eq!(run(&mut recorder, 243, 340, later).len(), 1);
    assert_eq!(run(&mut recorder, 343, 400, |_| Ok(())).len(), 1);
    // Who is gone is not written about, and what is refused not again.
    recorder.raise(s(400), &about(Kind::Service, "gone", "", "x"), "NotInEffect", false);
    assert_eq!(run(&mut recorder, 400, 900, |_| Err(Refusal::Gone)).len(), 1);
    recorder.raise(s(900), &about(Kind::Service, "odd", "", "x"), "NotInEffect", false);
    assert_eq!(run(&mut recorder, 900, 1400, |_| Err(Refusal::Refused("422".into()))).len(), 1);
    assert_eq!(recorder.trouble(), Some("422"));
}
