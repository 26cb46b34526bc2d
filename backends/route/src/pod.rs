//! Service addresses inside pods, in the pods' own network namespaces.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use fairway_desired::{Backend, Family, Fault, Op, Outcome, Pod, PodKey, PodValue, Table};
use ipnet::IpNet;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::setup::{Setup, SetupError};
use crate::wire::errno::{ENODEV, EPERM};

/// A pod that runs on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpace {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The file that stands for its network namespace.
    pub namespace: PathBuf,
}

/// Says which pods run on this node now, or in a sentence why that is not known.
pub type PodSpaces = Arc<dyn Fn() -> Result<Vec<PodSpace>, String> + Send + Sync>;

/// The [`Backend`] of the Pod plane.
///
/// A tunnel interface is made in a pod with its first service address and stays when the last one goes: nothing is sent
/// to it then, and the pod takes it along when it ends.
#[derive(Clone)]
pub struct PodBackend {
    pods: PodSpaces,
}

impl std::fmt::Debug for PodBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodBackend").finish_non_exhaustive()
    }
}

/// The tunnel interface in a pod, named as kube-router does.
const fn tunnel(family: Family) -> &'static str {
    match family {
        Family::V4 => "kube-tunnel-if",
        Family::V6 => "kube-tunnel-v6",
    }
}

impl PodBackend {
    /// A backend for the pods that the function names.
    pub fn new(pods: PodSpaces) -> Self {
        PodBackend { pods }
    }

    /// Calls something in a pod's namespace. A thread of its own does, which nobody else uses afterwards.
    fn within<T: Send>(
        space: &PodSpace,
        work: impl FnOnce(&mut Setup) -> Result<T, SetupError> + Send,
    ) -> io::Result<T> {
        let file = File::open(&space.namespace)?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                let mut setup = Setup::new().map_err(io::Error::other)?;
                work(&mut setup).map_err(|error| match error.errno() {
                    Some(errno) => io::Error::from_raw_os_error(errno),
                    None => io::Error::other(error),
                })
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the pod backend panicked")))
        })
    }

    fn put(space: &PodSpace, key: PodKey) -> io::Result<()> {
        Self::within(space, |setup| {
            let name = tunnel(Family::of(key.address));
            match key.pod {
                IpAddr::V4(pod) => setup.add_ipip(name, pod, Ipv4Addr::UNSPECIFIED)?,
                IpAddr::V6(pod) => setup.add_ip6tnl(name, pod, Ipv6Addr::UNSPECIFIED)?,
            }
            setup.set_up(name, true)?;
            setup.add_address(name, IpNet::from(key.address))
        })?;
        // What comes out of the tunnel has sources to which no route leads through it. An IPv6-only pod has no such file.
        Self::within(space, |_| {
            for link in ["all", tunnel(Family::V4), "eth0"] {
                let _absent = std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0");
            }
            Ok(())
        })
    }

    fn one(pods: &[PodSpace], op: &Op<Pod>) -> Result<Outcome, Fault> {
        let key = *op.key();
        let found = pods.iter().find(|space| space.addresses.contains(&key.pod));
        let result = match (op, found) {
            (Op::Put(..), None) => return Ok(Outcome::Refused(ENODEV)),
            (Op::Del(_), None) => return Ok(Outcome::Gone),
            (Op::Put(..), Some(space)) => Self::put(space, key).map(|()| true),
            (Op::Del(_), Some(space)) => Self::within(space, |setup| {
                setup.del_address(tunnel(Family::of(key.address)), IpNet::from(key.address))
            }),
        };
        match result {
            Ok(true) => Ok(Outcome::Done),
            Ok(false) => Ok(Outcome::Gone),
            Err(error) if error.raw_os_error() == Some(EPERM) => Err(Fault::Denied),
            // The pod ended while it was looked at.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(if matches!(op, Op::Put(..)) { Outcome::Refused(ENODEV) } else { Outcome::Gone })
            }
            Err(error) => Ok(error.raw_os_error().map_or(Outcome::Busy, Outcome::Refused)),
        }
    }
}

impl Backend<Pod> for PodBackend {
    fn observe(&mut self) -> Result<Table<Pod>, Fault> {
        let mut table = Table::<Pod>::new();
        for space in (self.pods)().map_err(Fault::Unsupported)? {
            // A pod that ends while it is looked at has nothing any more.
            let Ok(found) = Self::within(&space, |setup| {
                [Family::V4, Family::V6].into_iter().try_fold(vec![], |mut all, family| {
                    all.extend(setup.addresses_of(tunnel(family))?);
                    Ok(all)
                })
            }) else {
                continue;
            };
            for address in found {
                let of_family = |pod: &&IpAddr| pod.is_ipv6() == address.is_ipv6();
                let link_local = matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
                if let (Some(pod), false) = (space.addresses.iter().find(of_family), link_local) {
                    table.insert(PodKey { pod: *pod, address }, PodValue);
                }
            }
        }
        Ok(table)
    }

    fn apply(&mut self, ops: &[Op<Pod>]) -> Result<Vec<Outcome>, Fault> {
        let pods = (self.pods)().map_err(Fault::Unsupported)?;
        ops.iter().map(|op| Self::one(&pods, op)).collect()
    }
}
