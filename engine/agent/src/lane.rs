use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use fairway_desired::{Fault, Op, Outcome, Plane, PlaneId, Tunnel, file_errno};
use fairway_objects::{Notice, NoticeChange, Subject};
use fairway_reconcile::{Allow, Config, Owner, Reconciler, Request, Time};

use crate::text::Text;
use crate::view::PlaneView;

/// One plane's reconciler, and what it has to complain about.
#[derive(Debug)]
pub(crate) struct Lane<P: Plane> {
    pub(crate) reconciler: Reconciler<P>,
    /// The plane is somebody else's business: it is neither read nor written.
    off: bool,
    parked: BTreeMap<P::Key, Notice>,
    fault: Option<Notice>,
}

impl<P: Plane> Lane<P>
where
    P::Key: Text,
{
    pub(crate) fn new(seed: u64) -> Self {
        // One kernel transaction should hold as much as there is; elsewhere a batch bounds the time of a call.
        let config = if P::ID == PlaneId::Filter {
            Config { transactional: true, batch_max: usize::MAX, ..Config::default() }
        } else {
            Config::default()
        };
        // Planes of one agent must not draw the same jitter.
        let seed = seed ^ (P::ID as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Lane { reconciler: Reconciler::new(config, seed), off: false, parked: BTreeMap::new(), fault: None }
    }

    /// The table is read again at least so often. Somebody who asks for less than a second wants it often, not always.
    pub(crate) fn at_least_each(mut self, period: Time) -> Self {
        // An interval is drawn from up to five quarters of the mean.
        let mean = period.max(Time::from_secs(1)) / 5 * 4;
        self.reconciler = self.reconciler.with_resync(Config::default().resync.min(mean));
        self
    }

    pub(crate) fn with_owner(mut self, owner: Owner<P>) -> Self {
        self.reconciler = self.reconciler.with_owner(owner);
        self
    }

    pub(crate) fn off_if(mut self, off: bool) -> Self {
        self.off = off;
        self
    }

    pub(crate) fn poll(&mut self, now: Time, allow: Allow<'_, P>) -> Option<Request<P>> {
        if self.off { None } else { self.reconciler.poll(now, allow) }
    }

    pub(crate) fn blocks_puts(&self) -> bool {
        !self.off && self.reconciler.blocks_puts()
    }

    pub(crate) fn blocks_deletes(&self) -> bool {
        !self.off && self.reconciler.blocks_deletes()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.off || self.reconciler.is_settled()
    }

    /// Changes what should be, because of something that was heard of then.
    pub(crate) fn desire(&mut self, ops: Vec<Op<P>>, heard: Option<Time>) {
        let heard = heard.filter(|_| !self.off);
        for op in ops {
            self.reconciler.desire_since(op, heard);
        }
    }

    pub(crate) fn wake(&mut self, now: Time) {
        self.reconciler.handle(now, fairway_reconcile::Input::Tick);
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        if self.off { None } else { self.reconciler.deadline() }
    }

    /// Parked keys as text.
    pub(crate) fn parked(&self) -> impl Iterator<Item = (PlaneId, String, Outcome)> {
        self.reconciler.parked().map(|(key, outcome)| (P::ID, key.text(), outcome))
    }

    pub(crate) fn view(&self) -> PlaneView {
        let reconciler = &self.reconciler;
        PlaneView {
            plane: P::ID,
            in_use: !self.off,
            settled: self.is_settled(),
            desired: reconciler.tracker().desired().len(),
            pending_puts: reconciler.pending_puts(),
            pending_deletes: reconciler.pending_deletes(),
            parked: self.parked().map(|(_, key, outcome)| (key, outcome)).collect(),
            stats: reconciler.stats(),
            latency: reconciler.latency(),
            fault: reconciler.fault().cloned(),
        }
    }

    /// Which notices begin or cease to stand.
    pub(crate) fn notices(&mut self, changes: &mut Vec<NoticeChange>) {
        while let Some((key, outcome)) = self.reconciler.poll_parked() {
            let wanted = self.reconciler.tracker().desired().contains_key(&key);
            let notice = outcome.and_then(|outcome| reason::<P>(&key, outcome, wanted)).map(|reason| Notice {
                subject: Subject::Kernel(format!("{} {}", P::ID.as_str(), key.text())),
                field: String::new(),
                reason,
            });
            let before = match &notice {
                Some(notice) => self.parked.insert(key, notice.clone()),
                None => self.parked.remove(&key),
            };
            change(before, notice, changes);
        }
        let fault = self.reconciler.fault().map(|fault| Notice {
            subject: Subject::Kernel(P::ID.as_str().to_string()),
            field: String::new(),
            reason: match fault {
                Fault::Interrupted => "interrupted again and again".to_string(),
                Fault::Lost => "socket lost or overrun again and again".to_string(),
                Fault::Denied => "no permission".to_string(),
                Fault::Unsupported(what) => format!("not supported here: {what}"),
            },
        });
        if fault != self.fault {
            change(self.fault.take(), fault.clone(), changes);
            self.fault = fault;
        }
    }
}

fn change(before: Option<Notice>, after: Option<Notice>, changes: &mut Vec<NoticeChange>) {
    if before != after {
        changes.extend(before.map(NoticeChange::Cleared));
        changes.extend(after.map(NoticeChange::Raised));
    }
}

/// `EOPNOTSUPP`
const NOT_SUPPORTED: i32 = 95;

fn reason<P: Plane>(key: &P::Key, outcome: Outcome, wanted: bool) -> Option<String>
where
    P::Key: Text,
{
    let known = match (P::ID, outcome) {
        (PlaneId::File, Outcome::Refused(errno)) => file_reason(errno),
        // ENOENT
        (PlaneId::Sysctl, Outcome::Refused(2)) => Some("there is no such parameter; a module may be missing"),
        _ => None,
    };
    if let Some(known) = known {
        return Some(known.to_string());
    }
    match (outcome, wanted) {
        (Outcome::Refused(NOT_SUPPORTED), true) if P::ID == PlaneId::Link => {
            let module = match key.text() {
                port if port.starts_with("gue/") => "fou (for IPv6 fou6) is missing: no tunnels through UDP",
                tunnel if Tunnel::may_be(&tunnel) => "ipip (for IPv6 ip6_tunnel) is missing: no overlay",
                _ => "for this kind of interface is missing",
            };
            Some(format!("the kernel's module {module}"))
        }
        (Outcome::Refused(errno), true) => Some(format!("refused: errno {errno}")),
        (Outcome::Refused(errno), false) => Some(format!("removal refused: errno {errno}")),
        (Outcome::Foreign, _) => Some("not ours, left alone".to_string()),
        (Outcome::Done | Outcome::Gone | Outcome::Busy, _) => None,
    }
}

/// What an operator can do about a CNI configuration.
fn file_reason(errno: i32) -> Option<&'static str> {
    Some(match errno {
        file_errno::NO_FOLDER => "its folder does not exist",
        file_errno::OTHERS => {
            "it is not there, and its folder has other CNI configurations, which it would push aside; it is not made"
        }
        file_errno::MOUNT => "it is a mount of its own and cannot be replaced; mount its folder",
        file_errno::NO_BRIDGE => "there is no plugin of type bridge in it; pod CIDRs and MTU are not written",
        file_errno::READ_ONLY => "its file system is read-only",
        file_errno::NOT_CNI => "it is no CNI configuration in JSON; it is left as it is",
        file_errno::OTHER_IPAM => "its ipam is not host-local; pod CIDRs and MTU are not written",
        _ => return None,
    })
}
