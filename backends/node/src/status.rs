//! The node as a whole, as messages of the admin port.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fairway_agent::bfd::{Diagnostic, SessionView};
use fairway_agent::{Agent, PlaneView, publish};
use fairway_backend_admin::client::{Allocation, Bfd, LoadBalancer, Notice, Parked, Plane, Status, Watch};
use fairway_desired::{Fault, Outcome};
use fairway_objects::ObjectName;

/// What `fairway status`, probes and metrics are made of.
pub(crate) fn status(agent: &Agent, node: String, started: SystemTime, epoch: Instant, watches: Vec<Watch>) -> Status {
    let zero = zero(epoch);
    let (events_written, events_dropped) = agent.publisher().events().unwrap_or_default();
    Status {
        node,
        version: env!("CARGO_PKG_VERSION").into(),
        started_ms: ms(started),
        synced: agent.synced(),
        in_sync: agent.in_sync(),
        watches,
        planes: agent.planes().into_iter().map(|view| plane(view, zero)).collect(),
        notices: agent
            .notices()
            .map(|n| Notice { subject: n.subject.to_string(), field: n.field.clone(), reason: n.reason.clone() })
            .collect(),
        load_balancer: agent.publisher().view().map(load_balancer),
        events_written,
        events_dropped,
    }
}

fn load_balancer(view: publish::View) -> LoadBalancer {
    let allocation = |(service, addresses): (ObjectName, Vec<IpAddr>)| Allocation {
        service: service.to_string(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
    };
    LoadBalancer {
        lease: view.lease.to_string(),
        holder: view.holder.to_string(),
        leader: view.leads,
        allocations: view.given.into_iter().map(allocation).collect(),
    }
}

/// A BFD session, in the words of `fairway.v1`.
pub(crate) fn bfd_session(view: SessionView, epoch: Instant) -> Bfd {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let said = |diagnostic: Diagnostic| match diagnostic {
        Diagnostic::NONE => String::new(),
        diagnostic => diagnostic.to_string(),
    };
    Bfd {
        state: view.state.as_str().into(),
        remote_state: view.remote_state.as_str().into(),
        diagnostic: said(view.diagnostic),
        remote_diagnostic: said(view.remote_diagnostic),
        since_ms: ms(zero(epoch) + view.since),
        tx_interval_us: view.tx_interval.map(us),
        detection_time_us: us(view.detection_time),
        multihop: view.multihop,
        ups: view.ups,
        packets_sent: view.sent,
        packets_received: view.received,
    }
}

/// The wall clock at the zero of the agent's clock.
fn zero(epoch: Instant) -> SystemTime {
    SystemTime::now().checked_sub(epoch.elapsed()).unwrap_or(UNIX_EPOCH)
}

fn ms(at: SystemTime) -> u64 {
    let since: Duration = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn plane(view: PlaneView, zero: SystemTime) -> Plane {
    let stats = view.stats;
    Plane {
        name: view.plane.as_str().into(),
        in_use: view.in_use,
        settled: view.settled,
        desired: view.desired as u64,
        pending: (view.pending_puts + view.pending_deletes) as u64,
        parked: view.parked.into_iter().map(|(key, outcome)| Parked { key, outcome: said(outcome) }).collect(),
        puts: stats.puts,
        deletes: stats.deletes,
        refused: stats.refused,
        busy: stats.busy,
        faults: stats.faults,
        succeeded_ms: stats.succeeded_at.map(|at| ms(zero + at)),
        fault: view.fault.map(|fault| match fault {
            Fault::Interrupted => "interrupted again and again".into(),
            Fault::Lost => "socket lost or overrun again and again".into(),
            Fault::Denied => "no permission".into(),
            Fault::Unsupported(what) => format!("not supported: {what}"),
        }),
    }
}

fn said(outcome: Outcome) -> String {
    match outcome {
        Outcome::Refused(errno) => format!("refused: {}", std::io::Error::from_raw_os_error(errno)),
        Outcome::Foreign => "not ours, left alone".into(),
        other => format!("{other:?}"),
    }
}
