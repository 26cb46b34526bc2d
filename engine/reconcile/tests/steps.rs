//! Single behaviours, one after the other.

mod common;

use std::time::Duration;

use common::{BAD, EINVAL, Kernel, Toy, config, settle};
use fairway_desired::{Fault, Op, Outcome, Plane, PlaneId};
use fairway_reconcile::{Allow, Config, Input, Reconciler, Request};

const START: Duration = Duration::ZERO;

fn warm(config: Config, table: &[(u8, u8)]) -> Reconciler<Toy> {
    let mut reconciler = Reconciler::new(config, 1);
    assert_eq!(reconciler.poll(START, Allow::NONE), Some(Request::Observe));
    reconciler.handle(START, Input::Observed(Ok(table.iter().copied().collect())));
    reconciler
}

#[test]
fn a_cold_plane_applies_nothing_and_blocks() {
    let mut reconciler = Reconciler::<Toy>::new(config(), 1);
    reconciler.desire(Op::Put(2, 1));
    assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Observe));
    assert_eq!(reconciler.poll(START, Allow::ALL), None);
    assert!(reconciler.blocks_puts() && reconciler.blocks_deletes() && !reconciler.in_sync(&4));
    reconciler.handle(START, Input::Observed(Ok([(2, 1)].into())));
    assert_eq!(reconciler.poll(START, Allow::ALL), None);
    assert!(!reconciler.blocks_puts() && reconciler.is_settled() && reconciler.in_sync(&4));
}

#[test]
fn batches_are_bounded_and_keep_the_order() {
    let mut kernel = Kernel::new(1);
    let mut reconciler = warm(config(), &[]);
    (0..12).rev().for_each(|key| reconciler.desire(Op::Put(key, 1)));
    settle(&mut reconciler, &mut kernel, START);
    assert_eq!(kernel.log.iter().map(|op| *op.key()).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    kernel.log.clear();
    (0..12).for_each(|key| reconciler.desire(Op::Del(key)));
    reconciler.desire(Op::Put(20, 1));
    settle(&mut reconciler, &mut kernel, START);
    let keys: Vec<u8> = kernel.log.iter().map(|op| *op.key()).collect();
    assert_eq!(keys, [20].into_iter().chain((0..12).rev()).collect::<Vec<_>>(), "puts first");
}

#[test]
fn gates_and_holds() {
    let mut reconciler = warm(config(), &[(8, 1)]);
    reconciler.desire(Op::Put(2, 1));
    reconciler.desire(Op::Put(4, 1));
    assert_eq!(reconciler.poll(START, Allow::NONE), None);
    assert_eq!((reconciler.pending_puts(), reconciler.pending_deletes()), (2, 1));
    let hold = |key: &u8| *key == 2;
    let allow = Allow { puts: true, deletes: false, hold: Some(&hold) };
    assert_eq!(reconciler.poll(START, allow), Some(Request::Apply(vec![Op::Put(4, 1)])));
    assert_eq!((reconciler.pending_puts(), reconciler.pending_deletes()), (2, 1));
    reconciler.handle(START, Input::Applied(Ok(vec![Outcome::Done])));
    assert_eq!(reconciler.poll(START, Allow { puts: true, deletes: false, hold: Some(&hold) }), None);
    assert!(!reconciler.is_settled());
    reconciler.desire(Op::Put(8, 1));
    assert!(!reconciler.is_settled() && reconciler.is_settled_but_for(hold));
}

#[test]
fn busy_waits_longer_each_time_and_does_not_block() {
    let mut reconciler = warm(Config { resync: Duration::from_secs(100_000), ..config() }, &[]);
    reconciler.desire(Op::Put(2, 1));
    let mut now = START;
    let mut waits = vec![];
    for _ in 0..12 {
        assert_eq!(reconciler.poll(now, Allow::ALL), Some(Request::Apply(vec![Op::Put(2, 1)])));
        assert!(reconciler.blocks_puts());
        reconciler.handle(now, Input::Applied(Ok(vec![Outcome::Busy])));
        assert_eq!(reconciler.poll(now, Allow::ALL), None);
        assert!(!reconciler.blocks_puts() && !reconciler.is_settled() && reconciler.pending_puts() == 0);
        let at = reconciler.deadline().unwrap();
        waits.push(at - now);
        now = at;
    }
    let (min, max) = (config().backoff_min, config().backoff_max);
    for (ix, wait) in waits.iter().enumerate() {
        let mean = (min * 2_u32.pow(ix as u32)).min(max);
        assert!(*wait >= mean * 3 / 4 && *wait <= mean * 5 / 4, "{ix}: {wait:?}");
    }
    assert_eq!(reconciler.parked().count(), 0);
    // A new value deserves a new try, and a success starts from the beginning.
    reconciler.desire(Op::Put(2, 2));
    assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Apply(vec![Op::Put(2, 2)])));
    reconciler.handle(now, Input::Applied(Ok(vec![Outcome::Done])));
    assert!(reconciler.is_settled());
}

#[test]
fn a_refused_key_is_parked_reported_and_healed() {
    let mut kernel = Kernel::new(1);
    let mut reconciler = warm(config(), &[]);
    reconciler.desire(Op::Put(2, BAD));
    reconciler.desire(Op::Put(4, 1));
    let now = settle(&mut reconciler, &mut kernel, START);
    assert_eq!(reconciler.parked().collect::<Vec<_>>(), [(&2, Outcome::Refused(EINVAL))]);
    assert_eq!(reconciler.poll_parked(), Some((2, Some(Outcome::Refused(EINVAL)))));
    assert_eq!(reconciler.poll_parked(), None);
    assert!(!reconciler.in_sync(&2) && !reconciler.blocks_puts());
    // The first refusal brings an observation soon; then the key is tried again, and nothing new is reported.
    let soon = reconciler.deadline().unwrap();
    assert!(soon - now <= config().backoff_min * 13);
    let tries = kernel.log.len();
    assert_eq!(reconciler.poll(soon, Allow::ALL), Some(Request::Observe));
    let answer = Input::Observed(kernel.observe());
    reconciler.handle(soon, answer);
    let now = settle(&mut reconciler, &mut kernel, soon);
    assert_eq!((kernel.log.len(), reconciler.poll_parked()), (tries + 1, None));
    assert!(reconciler.deadline().unwrap() - now >= config().resync * 3 / 4, "only the first refusal hurries");
    reconciler.desire(Op::Put(2, 5));
    assert_eq!(reconciler.poll_parked(), Some((2, None)));
    settle(&mut reconciler, &mut kernel, now);
    assert_eq!(kernel.table, [(2, 5), (4, 1)].into());
}

#[test]
fn an_outcome_belongs_to_the_value_that_was_sent() {
    for outcome in [Outcome::Refused(EINVAL), Outcome::Foreign, Outcome::Busy] {
        let mut reconciler = warm(config(), &[]);
        reconciler.desire(Op::Put(2, 1));
        assert!(reconciler.poll(START, Allow::ALL).is_some());
        reconciler.desire(Op::Put(2, 7));
        assert_eq!(reconciler.poll(START, Allow::ALL), None);
        reconciler.handle(START, Input::Applied(Ok(vec![outcome])));
        assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Apply(vec![Op::Put(2, 7)])), "{outcome:?}");
    }
    let mut reconciler = warm(config(), &[]);
    reconciler.desire(Op::Put(2, 1));
    assert!(reconciler.poll(START, Allow::ALL).is_some());
    reconciler.desire(Op::Del(2));
    assert!(!reconciler.in_sync(&2), "in flight");
    reconciler.handle(START, Input::Applied(Ok(vec![Outcome::Done])));
    assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Apply(vec![Op::Del(2)])));
}

#[test]
fn after_a_lost_apply_nothing_is_assumed() {
    for answer in [Err(Fault::Lost), Ok(vec![])] {
        let mut reconciler = warm(config(), &[]);
        reconciler.desire(Op::Put(2, 1));
        assert!(reconciler.poll(START, Allow::ALL).is_some());
        reconciler.handle(START, Input::Applied(answer));
        assert!(!reconciler.in_sync(&6) && reconciler.blocks_puts());
        assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Observe));
        reconciler.handle(START, Input::Observed(Ok([(2, 1)].into())));
        assert_eq!(reconciler.poll(START, Allow::ALL), None, "it had been applied");
        assert!(reconciler.is_settled());
    }
}

#[test]
fn repeated_faults_are_bounded_reported_and_forgotten() {
    let mut reconciler = Reconciler::<Toy>::new(config(), 1);
    let (mut now, mut observations) = (START, 0);
    while now < Duration::from_secs(60) {
        if reconciler.poll(now, Allow::ALL) == Some(Request::Observe) {
            observations += 1;
            reconciler.handle(now, Input::Observed(Err(Fault::Interrupted)));
            assert_eq!(reconciler.fault().is_some(), observations >= 3);
        }
        now = now.max(reconciler.deadline().unwrap());
    }
    assert!((10..25).contains(&observations), "{observations}");
    assert!(!reconciler.blocks_puts(), "a broken plane stops no other");
    assert_eq!(reconciler.poll(now, Allow::ALL), Some(Request::Observe));
    reconciler.handle(now, Input::Observed(Ok([].into())));
    assert!(reconciler.fault().is_none() && reconciler.is_settled());
}

#[test]
fn what_only_an_operator_can_repair_is_tried_slowly() {
    let mut reconciler = warm(config(), &[]);
    reconciler.desire(Op::Put(2, 1));
    let mut now = START;
    for _ in 0..3 {
        assert!(matches!(reconciler.poll(now, Allow::ALL), Some(Request::Apply(_))));
        reconciler.handle(now, Input::Applied(Err(Fault::Denied)));
        assert_eq!(reconciler.poll(now, Allow::ALL), None);
        let at = reconciler.deadline().unwrap();
        assert!(at - now >= config().backoff_max * 3 / 4);
        now = at;
        assert_eq!(reconciler.poll(now, Allow::ALL), Some(Request::Observe));
        reconciler.handle(now, Input::Observed(Ok([].into())));
        assert_eq!(reconciler.fault(), Some(&Fault::Denied), "reading works, writing is not known to");
        assert!(!reconciler.blocks_puts());
    }
    assert!(reconciler.poll(now, Allow::ALL).is_some());
    reconciler.handle(now, Input::Applied(Ok(vec![Outcome::Done])));
    assert_eq!(reconciler.fault(), None);
}

#[test]
fn one_bad_op_of_a_transaction_parks_alone() {
    let mut kernel = Kernel::new(1);
    kernel.transactional = true;
    let mut reconciler = warm(Config { transactional: true, batch_max: usize::MAX, ..config() }, &[]);
    (0..20).for_each(|key| reconciler.desire(Op::Put(key * 2, if key == 11 { BAD } else { 1 })));
    settle(&mut reconciler, &mut kernel, START);
    assert_eq!(reconciler.parked().map(|(key, _)| *key).collect::<Vec<_>>(), [22]);
    assert_eq!(kernel.table.len(), 19);
    // The size recovers: a good transaction is whole again before long.
    let mut sizes = vec![];
    for round in 2..8 {
        (0..20).filter(|key| *key != 11).for_each(|key| reconciler.desire(Op::Put(key * 2, round)));
        while let Some(Request::Apply(ops)) = reconciler.poll(START, Allow::ALL) {
            sizes.push(ops.len());
            let answer = Input::Applied(kernel.apply(&ops));
            reconciler.handle(START, answer);
        }
    }
    assert_eq!(sizes.last(), Some(&19), "{sizes:?}");
}

#[test]
fn a_named_culprit_is_parked_and_the_rest_sent_again() {
    let mut reconciler = warm(Config { transactional: true, ..config() }, &[]);
    [2, 4, 6].into_iter().for_each(|key| reconciler.desire(Op::Put(key, 1)));
    assert!(reconciler.poll(START, Allow::ALL).is_some());
    let outcomes = vec![Outcome::Done, Outcome::Refused(EINVAL), Outcome::Busy];
    reconciler.handle(START, Input::Applied(Ok(outcomes)));
    let rest = vec![Op::Put(2, 1), Op::Put(6, 1)];
    assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Apply(rest.clone())));
    // Busy: all or none, and they wait together.
    reconciler.handle(START, Input::Applied(Ok(vec![Outcome::Busy, Outcome::Busy])));
    assert_eq!(reconciler.poll(START, Allow::ALL), None);
    let at = reconciler.deadline().unwrap();
    assert_eq!(reconciler.poll(at, Allow::ALL), Some(Request::Apply(rest)));
}

#[test]
fn tampering_is_found_at_the_next_observation() {
    let mut kernel = Kernel::new(1);
    kernel.table = [(2, 1), (4, 1)].into();
    let mut reconciler = warm(config(), &[(2, 1), (4, 1)]);
    reconciler.desire(Op::Put(2, 1));
    reconciler.desire(Op::Put(4, 1));
    kernel.tamper(2, None);
    kernel.tamper(4, Some(9));
    kernel.tamper(6, Some(9));
    let now = reconciler.deadline().unwrap();
    assert!(now >= config().resync * 3 / 4 && now <= config().resync * 5 / 4);
    settle(&mut reconciler, &mut kernel, now);
    assert_eq!(kernel.table, [(2, 1), (4, 1)].into());
}

#[test]
fn foreign_entries_come_and_go() {
    let mut reconciler = Reconciler::<Toy>::new(config(), 1).with_owner(Box::new(|_, value| *value < 100));
    reconciler.desire(Op::Put(2, 1));
    reconciler.desire(Op::Put(4, 100));
    assert!(reconciler.poll(START, Allow::ALL).is_some());
    reconciler.handle(START, Input::Observed(Ok([(2, 200), (6, 200)].into())));
    assert_eq!(reconciler.poll(START, Allow::ALL), None);
    let parked: Vec<(&u8, Outcome)> = reconciler.parked().collect();
    assert_eq!(parked, [(&2, Outcome::Foreign), (&4, Outcome::Foreign)]);
    assert!(reconciler.is_settled() && !reconciler.in_sync(&2));
    reconciler.resync();
    assert!(reconciler.poll(START, Allow::ALL).is_some());
    reconciler.handle(START, Input::Observed(Ok([(6, 200)].into())));
    assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Apply(vec![Op::Put(2, 1)])));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unswept;

impl Plane for Unswept {
    const ID: PlaneId = PlaneId::Sysctl;
    const SWEEP: bool = false;
    type Key = u8;
    type Value = u8;
}

#[test]
fn a_plane_that_is_not_swept_is_never_deleted_from() {
    let mut reconciler = Reconciler::<Unswept>::new(config(), 1);
    reconciler.desire(Op::Put(1, 1));
    assert!(reconciler.poll(START, Allow::ALL).is_some());
    reconciler.handle(START, Input::Observed(Ok([(1, 1), (2, 2)].into())));
    reconciler.desire(Op::Del(1));
    assert_eq!(reconciler.poll(START, Allow::ALL), None);
    assert!(reconciler.is_settled() && reconciler.in_sync(&1) && reconciler.in_sync(&2));
}

#[test]
fn unasked_answers_are_ignored() {
    let mut reconciler = warm(config(), &[(2, 1)]);
    reconciler.desire(Op::Put(2, 1));
    reconciler.handle(START, Input::Observed(Ok([].into())));
    reconciler.handle(START, Input::Applied(Ok(vec![Outcome::Done])));
    assert!(reconciler.is_settled() && reconciler.tracker().actual().len() == 1);
    reconciler.resync();
    assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Observe));
    reconciler.handle(START, Input::Applied(Err(Fault::Lost)));
    assert!(reconciler.in_flight());
}

#[test]
fn what_became_of_requests_is_counted() {
    let mut reconciler = warm(config(), &[(8, 1)]);
    for key in [2, 3, 4, 5] {
        reconciler.desire(Op::Put(key, 1));
    }
    let Some(Request::Apply(ops)) = reconciler.poll(START, Allow::ALL) else { panic!("no ops") };
    assert_eq!(ops.len(), 5);
    let outcomes = vec![Outcome::Done, Outcome::Refused(EINVAL), Outcome::Busy, Outcome::Foreign, Outcome::Done];
    let later = Duration::from_secs(7);
    reconciler.handle(later, Input::Applied(Ok(outcomes)));
    let stats = reconciler.stats();
    assert_eq!((stats.puts, stats.deletes, stats.refused, stats.busy), (1, 1, 2, 1));
    assert_eq!((stats.faults, stats.observations, stats.succeeded_at), (0, 1, Some(later)));
    // Of a transaction with one bad op nothing took effect.
    let mut reconciler = warm(Config { transactional: true, ..config() }, &[]);
    reconciler.desire(Op::Put(2, 1));
    reconciler.desire(Op::Put(3, 1));
    assert!(reconciler.poll(START, Allow::ALL).is_some());
    reconciler.handle(later, Input::Applied(Ok(vec![Outcome::Done, Outcome::Refused(EINVAL)])));
    let stats = reconciler.stats();
    assert_eq!((stats.puts, stats.refused, stats.succeeded_at), (0, 1, Some(START)));
    assert!(reconciler.poll(later, Allow::ALL).is_some());
    reconciler.handle(later, Input::Applied(Err(Fault::Lost)));
    assert_eq!(reconciler.stats().faults, 1);
}

#[test]
fn a_change_by_somebody_else_brings_one_observation_soon_and_then_one_a_second() {
    let mut reconciler = warm(config(), &[]);
    let ms = Duration::from_millis;
    let observe = |reconciler: &mut Reconciler<Toy>, now| {
        assert_eq!(reconciler.poll(now, Allow::ALL), Some(Request::Observe));
        reconciler.handle(now, Input::Observed(Ok([].into())));
    };
    for at in [2_000, 2_001, 2_010] {
        reconciler.suspect(ms(at));
    }
    assert_eq!(reconciler.deadline(), Some(ms(2_020)));
    observe(&mut reconciler, ms(2_020));
    reconciler.suspect(ms(2_030));
    assert_eq!(reconciler.deadline(), Some(ms(3_020)), "somebody who goes on does not keep us busy");
    assert_eq!(reconciler.poll(ms(3_020), Allow::ALL), Some(Request::Observe));
    reconciler.suspect(ms(3_020));
    assert_eq!(reconciler.deadline(), None, "under way");
    reconciler.handle(ms(3_021), Input::Observed(Ok([].into())));
    assert_eq!(reconciler.deadline(), Some(ms(4_020)), "what was read may be older than the change");
    observe(&mut reconciler, ms(4_021));
    assert!(reconciler.deadline() > Some(ms(40_000)));
}

#[test]
fn a_doubted_entry_is_put_again_and_the_table_is_not_read() {
    let mut reconciler = warm(config(), &[(2, 1), (4, 1)]);
    reconciler.desire(Op::Put(2, 1));
    reconciler.desire(Op::Put(4, 1));
    reconciler.desire(Op::Put(6, 1));
    assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Apply(vec![Op::Put(6, 1)])));
    reconciler.doubt(&2);
    reconciler.doubt(&6);
    assert_eq!(reconciler.poll(START, Allow::ALL), None);
    reconciler.handle(START, Input::Applied(Ok(vec![Outcome::Done])));
    let again = vec![Op::Put(2, 1), Op::Put(6, 1)];
    assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Apply(again)), "6 may have gone after it was made");
    reconciler.handle(START, Input::Applied(Ok(vec![Outcome::Done; 2])));
    assert!(reconciler.is_settled());
    reconciler.desire(Op::Del(4));
    reconciler.doubt(&4);
    assert!(reconciler.is_settled(), "gone by itself");
    // What was refused may be possible now.
    reconciler.desire(Op::Put(8, 1));
    assert!(reconciler.poll(START, Allow::ALL).is_some());
    reconciler.handle(START, Input::Applied(Ok(vec![Outcome::Refused(EINVAL)])));
    assert_eq!(reconciler.poll(START, Allow::ALL), None);
    reconciler.doubt(&8);
    assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Apply(vec![Op::Put(8, 1)])));
}

#[test]
fn a_key_that_becomes_free_is_tried_again_at_once_and_one_that_is_taken_is_looked_at() {
    let mut reconciler = warm(config(), &[(8, 1)]);
    reconciler.desire(Op::Put(8, 1));
    reconciler.desire(Op::Put(2, 1));
    assert!(reconciler.poll(START, Allow::ALL).is_some());
    reconciler.handle(START, Input::Applied(Ok(vec![Outcome::Foreign])));
    assert_eq!(reconciler.poll(START, Allow::ALL), None);
    reconciler.foreign(START, &4);
    assert_eq!(reconciler.poll(START, Allow::ALL), None);
    reconciler.foreign(START, &2);
    assert_eq!(reconciler.poll(START, Allow::ALL), Some(Request::Apply(vec![Op::Put(2, 1)])));
}

#[test]
fn programming_latency_runs_from_the_first_cause_to_the_kernels_word() {
    let ms = Duration::from_millis;
    let mut reconciler = warm(Config { resync: Duration::from_secs(100_000), ..config() }, &[(2, 1)]);
    // Not because of anything that was heard: not counted.
    reconciler.desire(Op::Put(2, 1));
    reconciler.desire(Op::Put(4, 1));
    reconciler.desire_since(Op::Put(6, 1), Some(ms(100)));
    reconciler.desire_since(Op::Put(6, 2), Some(ms(107)));
    // Undone before it was done.
    reconciler.desire_since(Op::Put(2, 3), Some(ms(50)));
    reconciler.desire_since(Op::Put(2, 1), Some(ms(60)));
    reconciler.desire_since(Op::Put(8, BAD), Some(ms(100)));
    let asked = reconciler.poll(ms(108), Allow::ALL);
    assert_eq!(asked, Some(Request::Apply(vec![Op::Put(4, 1), Op::Put(6, 2), Op::Put(8, BAD)])));
    // A change of what is under way counts by itself, from the same cause.
    reconciler.desire_since(Op::Put(6, 3), Some(ms(109)));
    let outcomes = vec![Outcome::Done, Outcome::Done, Outcome::Refused(EINVAL)];
    reconciler.handle(ms(110), Input::Applied(Ok(outcomes)));
    assert!(reconciler.latency().is_empty(), "the newest value is not in place");
    assert_eq!(reconciler.poll(ms(110), Allow::ALL), Some(Request::Apply(vec![Op::Put(6, 3)])));
    reconciler.handle(ms(120), Input::Applied(Ok(vec![Outcome::Done])));
    let latency = reconciler.latency();
    assert_eq!((latency.len(), latency.sum()), (1, ms(20)));
    let buckets: Vec<(Duration, u64)> =
        latency.buckets().filter(|(bound, _)| (ms(10)..=ms(25)).contains(bound)).collect();
    assert_eq!(buckets, [(ms(10), 0), (ms(25), 1)]);
    assert_eq!(latency.buckets().last().map(|(_, count)| count), Some(1));
    // What was refused is parked, not slow.
    reconciler.desire(Op::Put(8, 1));
    assert_eq!(reconciler.poll(ms(120), Allow::ALL), Some(Request::Apply(vec![Op::Put(8, 1)])));
    reconciler.handle(ms(9000), Input::Applied(Ok(vec![Outcome::Done])));
    assert_eq!(reconciler.latency().len(), 1);
    // A deletion, and one that takes longer than the last bound.
    assert_eq!(reconciler.poll(ms(9_999), Allow::ALL), Some(Request::Observe), "because of the refusal");
    reconciler.handle(ms(9_999), Input::Observed(Ok([(2, 1), (4, 1), (6, 3), (8, 1)].into())));
    reconciler.desire_since(Op::Del(8), Some(ms(10_000)));
    assert_eq!(reconciler.poll(ms(10_000), Allow::ALL), Some(Request::Apply(vec![Op::Del(8)])));
    reconciler.handle(ms(100_000), Input::Applied(Ok(vec![Outcome::Done])));
    let latency = reconciler.latency();
    assert_eq!((latency.len(), latency.buckets().last().map(|(_, count)| count)), (2, Some(1)));
}
