//! Routes of a daemon that has no hand for the kernel: what it learned is written by us, all paths of a prefix as one
//! route.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fairway_backend_route::setup::Setup;
use fairway_backend_route::{RouteBackend, routes};
use fairway_desired::{Family, MAIN_TABLE, NextHop, RouteKey, RouteKind, RouteValue};
use ipnet::IpNet;

use super::{Daemon, Place};
use crate::host::setup_in;

/// `RTPROT_BGP`
const PROTO_BGP: u8 = 186;
/// Metric of the routes that the mirror writes, as routing suites have it.
const METRIC: u32 = 20;
/// How often the mirror looks.
const PERIOD: Duration = Duration::from_millis(200);

/// What of a daemon's RIB is in the kernel.
#[derive(Debug)]
pub(super) struct Mirror {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// The last thing that went wrong.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _over = thread.join();
        }
    }
}

/// Next hops by prefix.
type Hops = BTreeMap<IpNet, Vec<IpAddr>>;

impl Mirror {
    /// Starts to look, and takes over what an earlier one wrote.
    /// Paths by way of `own` addresses are its own networks.
    pub(super) fn new(daemon: Arc<dyn Daemon>, place: Place, own: Vec<IpAddr>) -> io::Result<Mirror> {
        let stop = Arc::new(AtomicBool::new(false));
        let trouble = Arc::new(Mutex::new(None));
        let (ended, said) = (Arc::clone(&stop), Arc::clone(&trouble));
        let mut setup = setup_in(&place.space)?;
        let mut written = place.space.within(inherited)?;
        let work = move || {
            while !ended.load(Ordering::Relaxed) {
                if let Err(error) = once(&*daemon, &place, &own, &mut setup, &mut written) {
                    *said.lock().unwrap_or_else(|e| e.into_inner()) = Some(error.to_string());
                }
                std::thread::sleep(PERIOD);
            }
        };
        let thread = std::thread::Builder::new().name("rib to fib".into()).spawn(work)?;
        Ok(Mirror { stop, thread: Some(thread), trouble })
    }

    /// The last thing that went wrong.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

/// Routes that are there already.
fn inherited() -> io::Result<Hops> {
    let mut backend = RouteBackend::new().map_err(io::Error::other)?;
    let mut hops = Hops::new();
    for family in [Family::V4, Family::V6] {
        let found = routes(&mut backend, MAIN_TABLE, family).map_err(|fault| io::Error::other(format!("{fault:?}")))?;
        for (key, value) in found {
            if value.protocol == PROTO_BGP && key.metric == METRIC {
                hops.insert(key.prefix, value.next_hops.iter().filter_map(|hop| hop.via).collect());
            }
        }
    }
    Ok(hops)
}

fn once(daemon: &dyn Daemon, place: &Place, own: &[IpAddr], setup: &mut Setup, written: &mut Hops) -> io::Result<()> {
    let mut wanted = Hops::new();
    for ipv6 in [false, true] {
        for path in daemon.rib(place, ipv6)? {
            if !path.next_hop.is_unspecified() && !own.contains(&path.next_hop) {
                wanted.entry(path.prefix).or_default().push(path.next_hop);
            }
        }
    }
    for hops in wanted.values_mut() {
        hops.sort();
        hops.dedup();
    }
    let key = |prefix: IpNet| RouteKey { prefix, table: MAIN_TABLE, metric: METRIC };
    for (prefix, hops) in &wanted {
        if written.get(prefix) != Some(hops) {
            let next_hops = hops.iter().map(|via| NextHop { via: Some(*via), dev: None, weight: 1 }).collect();
            let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_BGP, src: None, next_hops };
            setup.add_route(key(*prefix), value).map_err(io::Error::other)?;
            written.insert(*prefix, hops.clone());
        }
    }
    let gone: Vec<IpNet> = written.keys().filter(|prefix| !wanted.contains_key(prefix)).copied().collect();
    for prefix in gone {
        setup.del_route(&key(prefix), PROTO_BGP).map_err(io::Error::other)?;
        written.remove(&prefix);
    }
    Ok(())
}
