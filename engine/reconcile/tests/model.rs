//! Any changes, any faults: in the end the kernel is as desired, and on the way nothing right or foreign is touched.

mod common;

use std::time::Duration;

use common::{BAD, FOREIGN, Kernel, Toy, check_order, config, settle};
use fairway_desired::{Op, Outcome};
use fairway_reconcile::{Allow, Config, Input, Reconciler, Request, Tracker};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Desire(u8, Option<u8>),
    Tamper(u8, Option<u8>),
    Poll { puts: bool, deletes: bool, hold: Option<u8> },
    Answer,
    Advance(u32),
    Resync,
    Failing(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..FOREIGN + 4, prop::option::weighted(0.7, 0..16_u8)).prop_map(|(k, v)| Step::Desire(k, v)),
        2 => (0..FOREIGN + 4, prop::option::of(0..16_u8)).prop_map(|(k, v)| Step::Tamper(k, v)),
        6 => (any::<bool>(), any::<bool>(), prop::option::weighted(0.2, 0..FOREIGN))
            .prop_map(|(puts, deletes, hold)| Step::Poll { puts, deletes, hold }),
        6 => Just(Step::Answer),
        3 => (0..20_000_u32).prop_map(Step::Advance),
        1 => Just(Step::Resync),
        1 => any::<bool>().prop_map(Step::Failing),
    ]
}

fn run(config: Config, seed: u64, initial: Vec<(u8, u8)>, steps: Vec<Step>) {
    let mut kernel = Kernel::new(seed);
    kernel.transactional = config.transactional;
    for (key, value) in initial {
        kernel.table.insert(key, value);
    }
    let mut reconciler = Reconciler::<Toy>::new(config, seed).with_owner(Box::new(|key, _| *key < FOREIGN));
    let mut desired = std::collections::BTreeMap::new();
    let mut now = Duration::ZERO;
    let mut flight: Option<Request<Toy>> = None;
    for step in steps {
        match step {
            Step::Desire(key, Some(value)) => {
                desired.insert(key, value);
                reconciler.desire(Op::Put(key, value));
            }
            Step::Desire(key, None) => {
                desired.remove(&key);
                reconciler.desire(Op::Del(key));
            }
            Step::Tamper(key, value) => kernel.tamper(key, value),
            Step::Poll { puts, deletes, hold } => {
                let held = |key: &u8| Some(*key) == hold;
                let request = reconciler.poll(now, Allow { puts, deletes, hold: Some(&held) });
                assert!(request.is_none() || flight.is_none(), "two requests in flight");
                if let Some(Request::Apply(ops)) = &request {
                    check_order(ops, config.batch_max);
                    for op in ops {
                        assert!(!held(op.key()), "{op:?} is held");
                        match op {
                            Op::Put(key, value) => assert!(puts && desired.get(key) == Some(value), "{op:?}"),
                            Op::Del(key) => assert!(deletes && !desired.contains_key(key), "{op:?}"),
                        }
                    }
                }
                flight = flight.or(request);
            }
            Step::Answer => {
                if let Some(request) = flight.take() {
                    let answer = kernel.serve(request);
                    reconciler.handle(now, answer);
                }
            }
            Step::Advance(ms) => {
                now += Duration::from_millis(ms.into());
                reconciler.handle(now, Input::Tick);
            }
            Step::Resync => reconciler.resync(),
            Step::Failing(failing) => kernel.failing = failing,
        }
        assert_eq!(reconciler.in_flight(), flight.is_some());
        assert_eq!(reconciler.tracker().desired(), &desired);
    }

    kernel.failing = false;
    if let Some(request) = flight.take() {
        let answer = kernel.serve(request);
        reconciler.handle(now, answer);
    }
    // Twice: a key may be refused for want of one that is put later, and is tried again after an observation.
    for _ in 0..2 {
        reconciler.resync();
        now = settle(&mut reconciler, &mut kernel, now);
    }
    for (key, value) in desired.iter().filter(|(key, _)| **key < FOREIGN) {
        let impossible = *value == BAD || key % 2 == 1 && !kernel.table.contains_key(&(key - 1));
        assert!(impossible || kernel.table.get(key) == Some(value), "{key}");
        assert_eq!(reconciler.in_sync(key), kernel.table.get(key) == Some(value), "{key}");
        assert_eq!(reconciler.parked_as(key).is_some(), !reconciler.in_sync(key), "{key}");
    }
    for key in kernel.table.keys().filter(|key| **key < FOREIGN && !desired.contains_key(key)) {
        assert!(key % 2 == 0 && kernel.table.contains_key(&(key + 1)), "{key} is left over");
        assert_eq!(reconciler.parked_as(key).map(|o| matches!(o, Outcome::Refused(_))), Some(true));
    }
    for key in desired.keys().filter(|key| **key >= FOREIGN) {
        assert_eq!(reconciler.parked_as(key), Some(Outcome::Foreign));
    }

    // A second reconcile changes nothing, and repeats no more than what cannot be.
    let before = kernel.table.clone();
    let parked: Vec<u8> = reconciler.parked().map(|(key, _)| *key).collect();
    kernel.log.clear();
    reconciler.resync();
    settle(&mut reconciler, &mut kernel, now);
    assert_eq!(kernel.table, before);
    assert!(kernel.log.iter().all(|op| parked.contains(op.key())), "{:?}", kernel.log);
    if parked.is_empty() {
        assert_eq!(kernel.log, []);
    }
}

fn initial() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((0..FOREIGN + 4, 0..12_u8), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn converges(seed: u64, initial in initial(), steps in prop::collection::vec(step(), 0..120)) {
        run(config(), seed, initial, steps);
    }

    #[test]
    fn converges_in_transactions(seed: u64, initial in initial(), steps in prop::collection::vec(step(), 0..120)) {
        run(Config { transactional: true, batch_max: usize::MAX, ..config() }, seed, initial, steps);
    }

    /// The maintained difference is the one that a search would find.
    #[test]
    fn tracker_is_exact(writes in prop::collection::vec((any::<bool>(), 0..8_u8, prop::option::of(0..3_u8)), 0..60)) {
        let mut tracker = Tracker::<Toy>::new();
        for (desire, key, value) in writes {
            match (desire, value) {
                (true, Some(value)) => {
                    let changes = tracker.desired().get(&key) != Some(&value);
                    prop_assert_eq!(tracker.set_desired(Op::Put(key, value)), changes);
                }
                (true, None) => {
                    let changes = tracker.desired().contains_key(&key);
                    prop_assert_eq!(tracker.set_desired(Op::Del(key)), changes);
                }
                (false, value) => tracker.set_actual(&key, value),
            }
            let (desired, actual) = (tracker.desired().clone(), tracker.actual().clone());
            let puts: Vec<(u8, u8)> =
                desired.iter().filter(|(k, v)| actual.get(k) != Some(v)).map(|(k, v)| (*k, *v)).collect();
            let deletes: Vec<u8> = actual.keys().rev().filter(|k| !desired.contains_key(k)).copied().collect();
            prop_assert_eq!(tracker.puts().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(), puts);
            prop_assert_eq!(tracker.deletes().copied().collect::<Vec<_>>(), deletes);
            let mut rebuilt = tracker.clone();
            rebuilt.replace_actual(actual);
            prop_assert!(rebuilt.puts().eq(tracker.puts()) && rebuilt.deletes().eq(tracker.deletes()));
            prop_assert_eq!(tracker.len(), tracker.puts_len() + tracker.deletes_len());
        }
    }
}
