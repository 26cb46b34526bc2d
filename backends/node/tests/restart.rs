//! The agent is killed in the middle of programming, after every single step in turn, and started anew.
//!
//! One network namespace is the node, on the real kernel, with a pod and a client beside it. A kernel that dies after
//! so many steps plays SIGKILL: what was written stays, everything else is gone. Then another agent finds what is
//! left. In the end the kernel has what it has without any kill, what is not ours is untouched, and connections
//! through a service that did not change never noticed.

mod site;

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use site::{
    CONNECTIONS, Finally, Objects, POD, PORT, Running, Site, State, after, before, change, echo, first_site, load,
    reference,
};

/// More steps than any change here takes.
const STEPS: usize = 200;

// ---- The test.

/// Starts an agent where another one was killed, and lets it finish.
fn check_heir(
    site: &Site,
    (objects, wanted): (&Objects, &State),
    foreign: &[String],
    steps: usize,
    next: Option<&str>,
) {
    let heir = Running::start(&site.node, objects, None);
    assert_eq!(heir.settle(), None);
    heir.kill();
    let place = format!("killed after {steps} steps, before {}", next.unwrap_or("nothing"));
    let differences = State::of(&site.node).differences(wanted);
    assert!(differences.is_empty(), "{place}:\n{differences}");
    assert_eq!(site.foreign(), foreign, "{place}");
}

/// Kills an agent after each step of a change in turn, there and back. Returns how many kills hit something.
fn kill_at_every_step(site: &Site, states: &[(Objects, State); 2], foreign: &[String]) -> usize {
    let mut kills = 0;
    let mut done = [false; 2];
    for steps in 0..STEPS {
        for (from, to) in [(0, 1), (1, 0)] {
            let ((before, _), (after, wanted)) = (&states[from], &states[to]);
            let agent = Running::start(&site.node, before, None);
            assert_eq!(agent.settle(), None);
            // Kernel parameters are written each time: nobody knows which of them to read before.
            let taken: Vec<_> = agent.taken().into_iter().filter(|step| !step.starts_with("sysctl ")).collect();
            assert_eq!(taken, Vec::<String>::new(), "a restart has nothing to do");
            agent.limit(steps);
            agent.tell(change(before, after));
            let killed_at = agent.settle();
            agent.kill();
            check_heir(site, (after, wanted), foreign, steps, killed_at.as_deref());
            done[from] = killed_at.is_none();
            kills += usize::from(killed_at.is_some());
        }
        if done == [true; 2] {
            return kills;
        }
    }
    panic!("the change is not over after {STEPS} steps");
}

#[test]
fn an_agent_killed_while_it_programs_an_empty_kernel_leaves_nothing_that_its_heir_cannot_finish() {
    let Some(site) = first_site() else { return };
    drop(site);
    let began = Instant::now();
    let objects = before();
    let wanted = reference(&objects).expect("a second namespace like the first");
    for steps in 0..STEPS {
        let site = Site::new().expect("another namespace like the first");
        let foreign = site.foreign();
        let agent = Running::start(&site.node, &objects, Some(steps));
        let killed_at = agent.settle();
        agent.kill();
        check_heir(&site, (&objects, &wanted), &foreign, steps, killed_at.as_deref());
        if killed_at.is_none() {
            println!("{steps} kills in {:?}", began.elapsed());
            assert!(steps > 20, "programming everything takes many steps, not {steps}");
            return;
        }
    }
    panic!("nothing is complete after {STEPS} steps");
}

#[test]
fn an_agent_killed_in_a_change_leaves_nothing_that_its_heir_cannot_finish_and_breaks_no_connection() {
    let Some(site) = first_site() else { return };
    let began = Instant::now();
    let states = [before(), after()].map(|objects| {
        let state = reference(&objects).expect("a second namespace like the first");
        (objects, state)
    });
    let foreign = site.foreign();
    let first = Running::start(&site.node, &states[0].0, None);
    assert_eq!(first.settle(), None);
    first.kill();
    assert_eq!(State::of(&site.node).differences(&states[0].1), "");

    let listener = site.pod.within(|| TcpListener::bind((POD, PORT))).expect("the pod listens");
    let (stop_load, stop_echo) = (AtomicBool::new(false), AtomicBool::new(false));
    let (kills, report) = thread::scope(|scope| {
        let _echo = Finally(&stop_echo);
        let _load = Finally(&stop_load);
        scope.spawn(|| echo(&listener, &stop_echo));
        let load = scope.spawn(|| site.client.within(|| load(&stop_load)));
        let kills = kill_at_every_step(&site, &states, &foreign);
        stop_load.store(true, Ordering::Relaxed);
        (kills, load.join().expect("the load ends"))
    });
    println!("{kills} kills in {:?}, {report:?}", began.elapsed());
    assert!(kills > 20, "the change takes many steps, not {kills}");
    assert_eq!(report.failures, Vec::<String>::new());
    assert!(report.pings > CONNECTIONS && report.connects > 1, "{report:?}");
}
