//! All planes of the real kernel behind one value.

use std::path::PathBuf;

use fairway_backend_cni::CniBackend;
use fairway_backend_filter::FilterBackend;
use fairway_backend_ipvs::{IpvsBackend, Timeouts};
use fairway_backend_route::{Monitor, PodBackend, PodSpaces, RouteBackend};
use fairway_desired::ipvs::TIMEOUTS;
use fairway_desired::{
    Addr, Backend, Fault, File, Filter, Ipvs, Link, LinkKind, Op, Outcome, PlaneId, Pod, Route, Rule, Sysctl, Table,
};
use fairway_objects::{NodeConfig, Role};

/// Why the kernel cannot be used. Each names what is missing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Routing.
    #[error(transparent)]
    Route(#[from] fairway_backend_route::OpenError),
    /// IPVS.
    #[error(transparent)]
    Ipvs(#[from] fairway_backend_ipvs::OpenError),
    /// nftables.
    #[error(transparent)]
    Filter(#[from] fairway_backend_filter::OpenError),
    /// Service addresses live on a dummy interface.
    #[error("the kernel has no dummy interfaces: module dummy is missing")]
    Dummy,
    /// The kernel does not let us.
    #[error("the kernel refuses to change interfaces ({0:?}): CAP_NET_ADMIN is needed")]
    Refused(Fault),
}

/// A kernel that can be listened to.
pub trait Watched {
    /// Starts to listen, in the network namespace of the calling thread. `None`: it says nothing by itself.
    ///
    /// # Errors
    /// In one sentence, why not.
    fn monitor(&mut self) -> Result<Option<Monitor>, String>;
}

impl Watched for RealKernel {
    fn monitor(&mut self) -> Result<Option<Monitor>, String> {
        Monitor::open(&self.route).map(Some).map_err(|error| error.to_string())
    }
}

/// The backends that a configuration needs, in the network namespace of the thread that opened them.
#[derive(Debug)]
pub struct RealKernel {
    route: RouteBackend,
    /// Only with the service proxy.
    ipvs: Option<IpvsBackend>,
    /// Only with the service proxy, or where what pods send out is masqueraded.
    filter: Option<FilterBackend>,
    /// Only where there is a CNI configuration to keep.
    cni: Option<CniBackend>,
    /// Only where the pods of this node are known.
    pods: Option<PodBackend>,
    /// The timeouts of IPVS were set, so they are looked at.
    timeouts: bool,
}

impl RealKernel {
    /// Opens what this configuration needs. Nothing in the kernel is changed.
    ///
    /// # Errors
    /// The first feature that the kernel lacks, by the name of its module, or that the process may not use.
    pub fn open(config: &NodeConfig) -> Result<RealKernel, OpenError> {
        let proxy = config.run_service_proxy;
        let ipvs = proxy.then(IpvsBackend::new).transpose()?;
        let node = matches!(config.role, Role::Node);
        let egress = node && config.run_router && config.enable_pod_egress;
        let filter = (proxy || egress).then(FilterBackend::new).transpose()?;
        let mut route = RouteBackend::new()?.with_overlay_port(config.overlay_port);
        if proxy && !route.offers(LinkKind::Dummy).map_err(OpenError::Refused)? {
            return Err(OpenError::Dummy);
        }
        let ipvs = ipvs.map(|ipvs| ipvs.with_excluded(config.excluded_cidrs.clone()));
        let cni = config.cni_file.clone().filter(|_| node && config.run_router && config.enable_cni);
        Ok(RealKernel { route, ipvs, filter, cni: cni.map(CniBackend::new), pods: None, timeouts: false })
    }
}

impl RealKernel {
    /// Kernel parameters are below this folder, in place of `/proc/sys`, which is read-only in a container.
    #[must_use]
    pub fn with_proc_sys(mut self, folder: PathBuf) -> RealKernel {
        self.route = self.route.with_proc_sys(folder);
        self
    }

    /// Opens what is there, to take away what is ours: a kernel without IPVS or nftables has nothing of ours in them.
    /// Returns as well which planes are absent.
    ///
    /// # Errors
    /// If the system gives no socket.
    pub fn open_for_cleanup(
        config: &NodeConfig,
        pods: Option<PodSpaces>,
    ) -> Result<(RealKernel, Vec<PlaneId>), OpenError> {
        let mut absent = vec![];
        absent.extend(pods.is_none().then_some(PlaneId::Pod));
        let ipvs = match IpvsBackend::new() {
            Ok(ipvs) => Some(ipvs.with_excluded(config.excluded_cidrs.clone())),
            Err(fairway_backend_ipvs::OpenError::Unsupported) => None,
            Err(error) => return Err(error.into()),
        };
        let filter = match FilterBackend::new() {
            Ok(filter) => Some(filter),
            Err(fairway_backend_filter::OpenError::Unsupported) => None,
            Err(error) => return Err(error.into()),
        };
        absent.extend(ipvs.is_none().then_some(PlaneId::Ipvs));
        absent.extend(filter.is_none().then_some(PlaneId::Filter));
        let pods = pods.map(PodBackend::new);
        let kernel = RealKernel { route: RouteBackend::new()?, ipvs, filter, cni: None, pods, timeouts: false };
        Ok((kernel, absent))
    }

    /// Also writes into the pods that the function names. Without it, direct server return is refused.
    #[must_use]
    pub fn with_pods(mut self, pods: PodSpaces) -> RealKernel {
        self.pods = Some(PodBackend::new(pods));
        self
    }
}

/// The backend of a plane that this configuration does not use.
fn absent(plane: &str) -> Fault {
    Fault::Unsupported(format!("{plane} is not in use with these flags"))
}

macro_rules! routed {
    ($($plane:ident),*) => {
        $(impl Backend<$plane> for RealKernel {
            fn observe(&mut self) -> Result<Table<$plane>, Fault> {
                Backend::<$plane>::observe(&mut self.route)
            }

            fn apply(&mut self, ops: &[Op<$plane>]) -> Result<Vec<Outcome>, Fault> {
                self.route.apply(ops)
            }
        })*
    };
}

routed!(Link, Addr, Rule, Route);

/// IPVS keeps its timeouts itself; all other parameters are files.
impl Backend<Sysctl> for RealKernel {
    fn observe(&mut self) -> Result<Table<Sysctl>, Fault> {
        let mut table = Backend::<Sysctl>::observe(&mut self.route)?;
        if let Some(ipvs) = self.ipvs.as_mut().filter(|_| self.timeouts) {
            let Timeouts { tcp_s, tcp_fin_s, udp_s } = ipvs.timeouts()?;
            table.extend(TIMEOUTS.into_iter().zip([tcp_s, tcp_fin_s, udp_s]).map(|(key, s)| (key.into(), s.into())));
        }
        Ok(table)
    }

    fn apply(&mut self, ops: &[Op<Sysctl>]) -> Result<Vec<Outcome>, Fault> {
        let mut outcomes = Vec::with_capacity(ops.len());
        for op in ops {
            let which = TIMEOUTS.iter().position(|key| **key == **op.key());
            outcomes.extend(match (which, op) {
                (Some(which), Op::Put(_, seconds)) => vec![self.set_timeout(which, *seconds)?],
                _ => Backend::<Sysctl>::apply(&mut self.route, std::slice::from_ref(op))?,
            });
        }
        Ok(outcomes)
    }
}

impl RealKernel {
    fn set_timeout(&mut self, which: usize, seconds: i64) -> Result<Outcome, Fault> {
        let ipvs = self.ipvs.as_mut().ok_or_else(|| absent("IPVS"))?;
        let Some(seconds) = u32::try_from(seconds).ok().filter(|seconds| *seconds > 0) else {
            return Ok(Outcome::Refused(rustix::io::Errno::INVAL.raw_os_error()));
        };
        self.timeouts = true;
        // 0 leaves the others as they are.
        let only = |this| if which == this { seconds } else { 0 };
        ipvs.set_timeouts(Timeouts { tcp_s: only(0), tcp_fin_s: only(1), udp_s: only(2) })
    }
}

impl Backend<Ipvs> for RealKernel {
    fn observe(&mut self) -> Result<Table<Ipvs>, Fault> {
        self.ipvs.as_mut().ok_or_else(|| absent("IPVS"))?.observe()
    }

    fn apply(&mut self, ops: &[Op<Ipvs>]) -> Result<Vec<Outcome>, Fault> {
        self.ipvs.as_mut().ok_or_else(|| absent("IPVS"))?.apply(ops)
    }
}

impl Backend<Filter> for RealKernel {
    /// Where this configuration needs none there are no rules of ours, and nothing is looked for: the kernel may lack nftables.
    fn observe(&mut self) -> Result<Table<Filter>, Fault> {
        self.filter.as_mut().map_or_else(|| Ok(Table::<Filter>::new()), Backend::observe)
    }

    fn apply(&mut self, ops: &[Op<Filter>]) -> Result<Vec<Outcome>, Fault> {
        self.filter.as_mut().ok_or_else(|| absent("nftables"))?.apply(ops)
    }
}

impl Backend<File> for RealKernel {
    fn observe(&mut self) -> Result<Table<File>, Fault> {
        self.cni.as_mut().map_or_else(|| Ok(Table::<File>::new()), Backend::observe)
    }

    fn apply(&mut self, ops: &[Op<File>]) -> Result<Vec<Outcome>, Fault> {
        self.cni.as_mut().ok_or_else(|| absent("CNI"))?.apply(ops)
    }
}

impl Backend<Pod> for RealKernel {
    fn observe(&mut self) -> Result<Table<Pod>, Fault> {
        self.pods.as_mut().map_or_else(|| Ok(Table::<Pod>::new()), Backend::observe)
    }

    fn apply(&mut self, ops: &[Op<Pod>]) -> Result<Vec<Outcome>, Fault> {
        self.pods
            .as_mut()
            .ok_or_else(|| {
                Fault::Unsupported(
                    "direct server return: no container runtime that knows the pods (--runtime-endpoint)".into(),
                )
            })?
            .apply(ops)
    }
}
