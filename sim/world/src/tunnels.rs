//! A node's kernel together with those of its pods: what an agent can write to.

use std::net::IpAddr;

use fairway_desired::{
    Addr, Backend, Family, Fault, File, Filter, Ipvs, Link, Op, Outcome, Pod, PodKey, PodValue, Route, Rule, Sysctl,
    Table,
};
use fairway_kernel::{Fabric, HostId};
use ipnet::IpNet;

/// `ENODEV`
const ENODEV: i32 = 19;

/// The tunnel interface in a pod, named as kube-router does.
fn tunnel(family: Family) -> &'static str {
    match family {
        Family::V4 => "kube-tunnel-if",
        Family::V6 => "kube-tunnel-v6",
    }
}

/// The kernel of a node, and its pods by address.
#[derive(Debug)]
pub(crate) struct NodeKernel<'a> {
    pub(crate) fabric: &'a mut Fabric,
    pub(crate) node: HostId,
    pub(crate) pods: Vec<(IpAddr, HostId)>,
}

impl NodeKernel<'_> {
    fn one(&mut self, op: &Op<Pod>) -> Outcome {
        let PodKey { pod, address } = *op.key();
        let found = self.pods.iter().find(|(ip, _)| *ip == pod);
        let (name, prefix) = (tunnel(Family::of(address)), IpNet::from(address));
        match (op, found) {
            (Op::Put(..), None) => Outcome::Refused(ENODEV),
            (Op::Del(_), None) => Outcome::Gone,
            (Op::Put(..), Some((_, host))) => {
                let kernel = self.fabric.kernel_mut(*host);
                kernel.add_tunnel(name);
                kernel.set_up(name, true);
                kernel.add_address(name, prefix);
                Outcome::Done
            }
            (Op::Del(_), Some((_, host))) => {
                if self.fabric.kernel_mut(*host).remove_address(name, prefix) {
                    Outcome::Done
                } else {
                    Outcome::Gone
                }
            }
        }
    }
}

impl Backend<Pod> for NodeKernel<'_> {
    fn observe(&mut self) -> Result<Table<Pod>, Fault> {
        let mut table = Table::<Pod>::new();
        for (pod, host) in &self.pods {
            let name = tunnel(Family::of(*pod));
            let on_tunnel = self.fabric.kernel(*host).addresses().filter(|(link, _)| *link == name);
            table.extend(on_tunnel.map(|(_, net)| (PodKey { pod: *pod, address: net.addr() }, PodValue)));
        }
        Ok(table)
    }

    fn apply(&mut self, ops: &[Op<Pod>]) -> Result<Vec<Outcome>, Fault> {
        Ok(ops.iter().map(|op| self.one(op)).collect())
    }
}

macro_rules! of_the_node {
    ($($plane:ident),*) => {
        $(impl Backend<$plane> for NodeKernel<'_> {
            fn observe(&mut self) -> Result<Table<$plane>, Fault> {
                Backend::<$plane>::observe(self.fabric.kernel_mut(self.node))
            }

            fn apply(&mut self, ops: &[Op<$plane>]) -> Result<Vec<Outcome>, Fault> {
                self.fabric.kernel_mut(self.node).apply(ops)
            }
        })*
    };
}

of_the_node!(Sysctl, Link, Addr, Filter, Rule, Route, Ipvs, File);
