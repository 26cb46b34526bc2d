//! All planes of the real kernel behind one value.

use std::path::PathBuf;

use fairway_backend_filter::FilterBackend;
use fairway_backend_ipvs::IpvsBackend;
use fairway_backend_route::{Monitor, PodBackend, PodSpaces, RouteBackend};
use fairway_desired::{
    Addr, Backend, Fault, Filter, Ipvs, Link, LinkKind, Op, Outcome, PlaneId, Pod, Route, Rule, Sysctl, Table,
};
use fairway_objects::NodeConfig;

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
    /// Only with the service proxy.
    filter: Option<FilterBackend>,
    /// Only where the pods of this node are known.
    pods: Option<PodBackend>,
}

impl RealKernel {
    /// Opens what this configuration needs. Nothing in the kernel is changed.
    ///
    /// # Errors
    /// The first feature that the kernel lacks, by the name of its module, or that the process may not use.
    pub fn open(config: &NodeConfig) -> Result<RealKernel, OpenError> {
        let proxy = config.run_service_proxy;
        let ipvs = proxy.then(IpvsBackend::new).transpose()?;
        let filter = proxy.then(FilterBackend::new).transpose()?;
        let mut route = RouteBackend::new()?.with_overlay_port(config.overlay_port);
        if proxy && !route.offers(LinkKind::Dummy).map_err(OpenError::Refused)? {
            return Err(OpenError::Dummy);
        }
        let ipvs = ipvs.map(|ipvs| ipvs.with_excluded(config.excluded_cidrs.clone()));
        Ok(RealKernel { route, ipvs, filter, pods: None })
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
    pub fn open_for_cleanup(config: &NodeConfig) -> Result<(RealKernel, Vec<PlaneId>), OpenError> {
        let mut absent = vec![PlaneId::Pod];
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
        Ok((RealKernel { route: RouteBackend::new()?, ipvs, filter, pods: None }, absent))
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

routed!(Sysctl, Link, Addr, Rule, Route);

impl Backend<Ipvs> for RealKernel {
    fn observe(&mut self) -> Result<Table<Ipvs>, Fault> {
        self.ipvs.as_mut().ok_or_else(|| absent("IPVS"))?.observe()
    }

    fn apply(&mut self, ops: &[Op<Ipvs>]) -> Result<Vec<Outcome>, Fault> {
        self.ipvs.as_mut().ok_or_else(|| absent("IPVS"))?.apply(ops)
    }
}

impl Backend<Filter> for RealKernel {
    /// Without the service proxy there are no rules of ours, and nothing is looked for: the kernel may lack nftables.
    fn observe(&mut self) -> Result<Table<Filter>, Fault> {
        self.filter.as_mut().map_or_else(|| Ok(Table::<Filter>::new()), Backend::observe)
    }

    fn apply(&mut self, ops: &[Op<Filter>]) -> Result<Vec<Outcome>, Fault> {
        self.filter.as_mut().ok_or_else(|| absent("nftables"))?.apply(ops)
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
