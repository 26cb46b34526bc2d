//! Several who compete for one Lease, in virtual time: each with a clock of its own, some cut off or killed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fairway_objects::ObjectName;
use fairway_publish::{Election, Lease, Params, Refusal, Request};
use proptest::prelude::*;

/// Steps of the true time.
const STEP: Duration = Duration::from_millis(50);

struct Rival {
    election: Election,
    /// What its clock shows at the start.
    offset: Duration,
    cut: bool,
    alive: bool,
    /// An answer on its way: when it arrives.
    answer: Option<(Duration, Result<Option<Lease>, Refusal>)>,
    /// A request on its way.
    request: Option<(Duration, Request)>,
}

struct Race {
    now: Duration,
    lease: Option<Lease>,
    version: u64,
    rivals: Vec<Rival>,
    /// One way.
    delay: Duration,
    requests: usize,
}

fn election(identity: &str, seed: u64) -> Election {
    Election::new(ObjectName::new("kube-system", "l"), identity.into(), seed, Params::default())
}

impl Race {
    fn new(rivals: usize, delay_ms: u64) -> Race {
        let rival = |i: usize| Rival {
            election: election(&format!("r{i}"), i as u64),
            // Their clocks have nothing to do with each other.
            offset: Duration::from_secs(1000 * (i as u64 * 7 % 5)),
            cut: false,
            alive: true,
            answer: None,
            request: None,
        };
        Race {
            now: Duration::ZERO,
            lease: None,
            version: 0,
            rivals: (0..rivals).map(rival).collect(),
            delay: Duration::from_millis(delay_ms),
            requests: 0,
        }
    }

    fn serve(&mut self, request: Request) -> Result<Option<Lease>, Refusal> {
        self.requests += 1;
        let write = match request {
            Request::ReadLease(_) => return Ok(self.lease.clone()),
            Request::WriteLease(write) => write,
            other => panic!("{other:?}"),
        };
        let known = self.lease.as_ref().map(|lease| lease.version.clone());
        if known != write.version {
            return Err(Refusal::Conflict);
        }
        self.version += 1;
        let now: Arc<str> = format!("{:?}", self.now).into();
        self.lease = Some(Lease {
            holder: write.holder,
            duration_s: write.duration_s,
            transitions: write.transitions,
            acquired: write.acquired.unwrap_or_else(|| now.clone()),
            renewed: now,
            version: self.version.to_string().into(),
        });
        Ok(self.lease.clone())
    }

    /// A step of time; there are never two leaders.
    fn step(&mut self) {
        self.now += STEP;
        for i in 0..self.rivals.len() {
            let at = self.rivals[i].offset + self.now;
            let (now, delay) = (self.now, self.delay);
            if let Some((due, request)) = self.rivals[i].request.take() {
                if due > now {
                    self.rivals[i].request = Some((due, request));
                } else {
                    let answer = match self.rivals[i].cut {
                        false => self.serve(request),
                        true => Err(Refusal::Unreachable { reason: "no answer".into(), after: None }),
                    };
                    self.rivals[i].answer = Some((now + delay, answer));
                }
            }
            let rival = &mut self.rivals[i];
            if !rival.alive {
                continue;
            }
            if let Some((due, answer)) = rival.answer.take() {
                if due > now {
                    rival.answer = Some((due, answer));
                } else {
                    rival.election.answer(at, answer);
                }
            }
            rival.election.tick(at);
            if let Some(request) = rival.election.poll() {
                assert!(rival.request.is_none(), "one question at a time");
                rival.request = Some((now + delay, request));
            }
        }
        let leaders = self.leaders();
        assert!(leaders.len() < 2, "at {:?}: {leaders:?}", self.now);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |r: &Rival| r.alive && r.election.leads(r.offset + self.now);
        self.rivals.iter().enumerate().filter(|(_, r)| leads(r)).map(|(i, _)| i).collect()
    }

    fn leader(&self) -> usize {
        *self.leaders().first().expect("somebody leads")
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn one_of_several_leads_and_goes_on_leading() {
    let mut race = Race::new(5, 20);
    race.run(s(5));
    let first = race.leader();
    race.run(s(300));
    assert_eq!(race.leader(), first);
    let lease = race.lease.clone().expect("a Lease");
    assert_eq!((lease.duration_s, lease.transitions), (15, 0));
    // One renewal in two seconds, and one look of each of the others.
    assert!(race.requests < 5 * 305 / 2 + 20, "{}", race.requests);
}

#[test]
fn a_leader_that_is_killed_is_followed_when_the_lease_has_run_out() {
    let mut race = Race::new(3, 20);
    race.run(s(5));
    let first = race.leader();
    race.rivals[first].alive = false;
    race.run(s(12));
    assert_eq!(race.leaders(), []);
    race.run(s(6));
    assert_ne!(race.leader(), first);
    assert_eq!(race.lease.as_ref().expect("a Lease").transitions, 1);
    // A new process of the same name competes again (kube-router's does not).
    race.rivals[first] = Rival { election: election("again", 9), alive: true, ..Race::new(1, 20).rivals.remove(0) };
    let second = race.leader();
    race.rivals[second].alive = false;
    race.run(s(18));
    assert_eq!(race.leaders().len(), 1);
}

#[test]
fn a_leader_that_is_cut_off_stops_before_another_begins_and_competes_again() {
    let mut race = Race::new(2, 20);
    race.run(s(5));
    let first = race.leader();
    race.rivals[first].cut = true;
    race.run(s(11));
    assert_eq!(race.leaders(), [], "its renewals fail, and nobody else may yet");
    race.run(s(7));
    let second = race.leader();
    assert_ne!(second, first);
    race.rivals[first].cut = false;
    race.run(s(60));
    assert_eq!(race.leader(), second, "who is back waits its turn");
    race.rivals[second].cut = true;
    race.run(s(20));
    assert_eq!(race.leader(), first, "it takes part again");
}

#[test]
fn who_leaves_gives_the_lease_back_and_another_has_it_at_once() {
    let mut race = Race::new(2, 20);
    race.run(s(5));
    let first = race.leader();
    let at = race.rivals[first].offset + race.now;
    race.rivals[first].election.leave(at);
    assert!(!race.rivals[first].election.leads(at));
    race.run(s(3));
    assert_eq!(race.leaders(), [1 - first]);
    assert!(race.rivals[first].election.deadline().is_none());
}

#[test]
fn a_restarted_holder_takes_its_own_lease_at_once() {
    let mut race = Race::new(1, 20);
    race.run(s(5));
    race.rivals[0].alive = false;
    race.rivals[0] = Rival { election: election("r0", 5), alive: true, ..Race::new(1, 20).rivals.remove(0) };
    race.run(s(1));
    assert_eq!(race.leaders(), [0]);
    assert_eq!(race.lease.expect("a Lease").transitions, 0);
}

#[test]
fn a_lease_from_the_past_or_the_future_runs_out_before_our_eyes() {
    for renewed in ["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "nonsense"] {
        let mut race = Race::new(1, 20);
        race.lease = Some(Lease {
            holder: "somebody".into(),
            duration_s: 15,
            renewed: renewed.into(),
            version: "7".into(),
            ..Lease::default()
        });
        race.run(s(14));
        assert_eq!(race.leaders(), [], "{renewed}");
        race.run(s(5));
        assert_eq!(race.leaders(), [0], "{renewed}");
    }
}

#[test]
fn a_lease_that_somebody_deletes_is_made_anew() {
    let mut race = Race::new(1, 20);
    race.run(s(5));
    race.lease = None;
    race.run(s(5));
    assert_eq!(race.leaders(), [0]);
    assert_eq!(&*race.lease.expect("a Lease").holder, "r0");
}

#[test]
fn who_may_not_says_so_and_asks_seldom() {
    let mut election = election("r", 1);
    let mut asked = 0;
    for second in 0..600 {
        election.tick(s(second));
        if election.poll().is_some() {
            asked += 1;
            election.answer(s(second), Err(Refusal::Forbidden("leases is forbidden".into())));
        }
    }
    assert_eq!(election.trouble(), Some("leases is forbidden"));
    assert!((15..=21).contains(&asked), "{asked}");
    // One write that is refused does not end what the last one gave.
    let lease = Lease { version: "1".into(), ..Lease::default() };
    election.tick(s(700));
    election.answer(s(700), Ok(Some(lease.clone())));
    assert!(election.poll().is_some());
    election.answer(s(700), Ok(Some(Lease { holder: "r".into(), version: "2".into(), ..lease })));
    assert!(election.leads(s(701)) && election.trouble().is_none());
    election.tick(s(702));
    election.answer(s(702), Err(Refusal::Conflict));
    assert!(election.leads(s(703)) && !election.leads(s(710)));
}

#[derive(Clone, Debug)]
enum Act {
    Pass(u64),
    Cut(usize, bool),
    Kill(usize),
    Restart(usize),
    Leave(usize),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to them there are never two (`step` checks), and when all is well one leads.
    #[test]
    fn never_two_and_in_the_end_one(
        acts in prop::collection::vec(prop_oneof![
            4 => (1u64..20_000).prop_map(Act::Pass),
            2 => (0usize..3, any::<bool>()).prop_map(|(i, cut)| Act::Cut(i, cut)),
            1 => (0usize..3).prop_map(Act::Kill),
            1 => (0usize..3).prop_map(Act::Restart),
            1 => (0usize..3).prop_map(Act::Leave),
        ], 0..25),
        delay in 1u64..1500,
    ) {
        let mut race = Race::new(3, delay);
        let mut names = 3;
        for act in acts {
            match act {
                Act::Pass(ms) => race.run(Duration::from_millis(ms)),
                Act::Cut(i, cut) => race.rivals[i].cut = cut,
                Act::Kill(i) => race.rivals[i].alive = false,
                Act::Restart(i) => {
                    names += 1;
                    let rival = Rival { election: election(&format!("r{names}"), names), ..Race::new(1, delay).rivals.remove(0) };
                    race.rivals[i] = rival;
                }
                Act::Leave(i) => {
                    let at = race.rivals[i].offset + race.now;
                    race.rivals[i].election.leave(at);
                }
            }
        }
        for i in 0..3 {
            names += 1;
            race.rivals[i] = Rival { election: election(&format!("r{names}"), names), ..Race::new(1, delay).rivals.remove(0) };
        }
        race.run(s(30));
        let leaders: BTreeSet<usize> = race.leaders().into_iter().collect();
        prop_assert_eq!(leaders.len(), 1);
    }
}
