//! Nodes that lose their addresses in the API server.
//!
//! A Node object says where the node is. When it suddenly says nothing (a cloud controller that restarts, somebody's
//! hand), the node is hardly nowhere, so what it said last counts, with a notice. An object that never had an address, or
//! was deleted, has none.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_objects::{Delta, Kind, Node, Notice, Object, ObjectKey, Subject};

/// What one Node object said last.
#[derive(Debug)]
struct Last {
    internal: Vec<IpAddr>,
    external: Vec<IpAddr>,
    /// Seen since the list of nodes began that is under way.
    seen: bool,
}

/// The addresses that each Node object had last.
#[derive(Debug, Default)]
pub(crate) struct Addresses(BTreeMap<ObjectKey, Last>);

impl Addresses {
    /// Learns from a delta, and puts in what it lacks.
    pub(crate) fn complete(&mut self, delta: Delta) -> Delta {
        match delta {
            Delta::Put { object: Object::Node(node), notices } => self.node(node, notices),
            Delta::Del(key) => {
                self.0.remove(&key);
                Delta::Del(key)
            }
            Delta::Relist(Kind::Node) => {
                self.0.values_mut().for_each(|last| last.seen = false);
                delta
            }
            Delta::Listed(Kind::Node) => {
                self.0.retain(|_, last| last.seen);
                delta
            }
            delta => delta,
        }
    }

    fn node(&mut self, node: Arc<Node>, mut notices: Vec<Notice>) -> Delta {
        let object = Object::Node(Arc::clone(&node));
        let key = object.key();
        if !node.internal_ips.is_empty() || !node.external_ips.is_empty() {
            let last = Last { internal: node.internal_ips.clone(), external: node.external_ips.clone(), seen: true };
            self.0.insert(key, last);
            return Delta::Put { object, notices };
        }
        let Some(last) = self.0.get_mut(&key) else { return Delta::Put { object, notices } };
        last.seen = true;
        let mut known = (*node).clone();
        known.internal_ips.clone_from(&last.internal);
        known.external_ips.clone_from(&last.external);
        notices.push(Notice {
            subject: Subject::Object(key),
            field: "status.addresses".to_string(),
            reason: "the node has no address any more; those it had stay in effect".to_string(),
        });
        Delta::Put { object: Object::Node(Arc::new(known)), notices }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use fairway_objects::ObjectName;

    use super::*;

    fn put(addresses: &[IpAddr]) -> Delta {
        let node = Node { internal_ips: addresses.to_vec(), ..Node::new(ObjectName::cluster("n1")) };
        Delta::Put { object: Object::Node(Arc::new(node)), notices: vec![] }
    }

    /// What a delta says of the node after it went through: its addresses and how many notices.
    fn said(addresses: &mut Addresses, delta: Delta) -> (Vec<IpAddr>, usize) {
        match addresses.complete(delta) {
            Delta::Put { object: Object::Node(node), notices } => (node.internal_ips.clone(), notices.len()),
            other => panic!("{other:?}"),
        }
    }

    const A: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 168, 1, 1));
    const B: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 168, 1, 2));

    #[test]
    fn addresses_that_vanish_stay_in_effect_until_there_are_others_or_the_object_goes() {
        let mut addresses = Addresses::default();
        assert_eq!(said(&mut addresses, put(&[])), (vec![], 0), "it never had one");
        assert_eq!(said(&mut addresses, put(&[A])), (vec![A], 0));
        assert_eq!(said(&mut addresses, put(&[])), (vec![A], 1));
        assert_eq!(said(&mut addresses, put(&[B])), (vec![B], 0));
        assert_eq!(said(&mut addresses, put(&[])), (vec![B], 1));
        addresses.complete(Delta::Del(ObjectKey::new(Kind::Node, "", "n1")));
        assert_eq!(said(&mut addresses, put(&[])), (vec![], 0), "it is another one");
    }

    #[test]
    fn a_list_without_the_node_forgets_it() {
        let mut addresses = Addresses::default();
        assert_eq!(said(&mut addresses, put(&[A])), (vec![A], 0));
        addresses.complete(Delta::Relist(Kind::Node));
        assert_eq!(said(&mut addresses, put(&[])), (vec![A], 1), "it is on the list");
        addresses.complete(Delta::Listed(Kind::Node));
        assert_eq!(said(&mut addresses, put(&[])), (vec![A], 1));
        addresses.complete(Delta::Relist(Kind::Node));
        addresses.complete(Delta::Listed(Kind::Node));
        assert_eq!(said(&mut addresses, put(&[])), (vec![], 0));
    }
}
