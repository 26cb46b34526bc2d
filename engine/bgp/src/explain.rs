//! Why a route is or is not accepted, best, in the kernel, advertised.

use alloc::format;
use alloc::string::{String, ToString};

use fairway_desired::Family;
use ipnet::IpNet;

use crate::Explanation;
use crate::neighbor::Neighbor;
use crate::speaker::Speaker;
use crate::table::{Route, RouteId};

impl Speaker {
    /// Everything that was decided about a prefix, and by which rule. `None`: no such prefix.
    pub fn explain(&self, prefix: IpNet) -> Option<Explanation> {
        let prefix = prefix.trunc();
        let net = self.table.find(prefix)?;
        let best = self.table.best(net);
        let paths = self
            .table
            .of_net(net)
            .map(|(id, route)| {
                let shared = route.accepted.unwrap_or(route.received);
                let is_best = best.is_some_and(|(best, _)| best == id);
                (self.view(route, shared, is_best), self.standing(prefix, id, route, is_best))
            })
            .collect();
        let neighbors = self
            .neighbors
            .iter()
            .filter(|(_, n)| n.session.is_some())
            .map(|(address, neighbor)| {
                let (told, why) = self.telling(prefix, neighbor, best.map(|(_, r)| r));
                (*address, told, why)
            })
            .collect();
        let next_hops = self.table.next_hops(net);
        Some(Explanation { prefix, paths, neighbors, next_hops })
    }

    /// What became of a path.
    fn standing(&self, prefix: IpNet, id: RouteId, route: &Route, best: bool) -> String {
        if route.accepted.is_none() {
            let importer = self.table.source(route.source).address.and_then(|peer| self.importer(peer));
            let why = importer.and_then(|i| self.admit(&i, prefix, route.received).err());
            return format!(
                "refused: {}",
                why.map_or_else(|| "its session is down".to_string(), |why| why.to_string())
            );
        }
        if best {
            return "best".into();
        }
        let why = self.table.why_not_best(route.net, id).unwrap_or("no path is better");
        if route.used {
            format!("in use beside the best path, which is ahead by: {why}")
        } else {
            format!("not best: {why}")
        }
    }

    /// Whether a neighbour is told of a prefix.
    fn telling(&self, prefix: IpNet, neighbor: &Neighbor, best: Option<&Route>) -> (bool, String) {
        let Some(key) = neighbor.session.as_ref().and_then(|s| self.group(s.group)).map(|g| &g.key) else {
            return (false, "the session is down".into());
        };
        let Some(best) = best else { return (false, "no path is accepted".into()) };
        if best.source == neighbor.source && !key.sends_several(Family::of(prefix.addr())) {
            return (false, "the best path comes from it".into());
        }
        match self.may_leave(key, prefix, best) {
            Err(why) => (false, why.to_string()),
            Ok(leave) => {
                let by = match leave.verdict.statement {
                    Some(name) => format!("statement {name} of the export policy accepts it"),
                    None if leave.verdict.index.is_none() => "the export policy accepts by default".into(),
                    None => String::new(),
                };
                (true, by)
            }
        }
    }
}
