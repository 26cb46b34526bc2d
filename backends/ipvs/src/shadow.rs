//! What is thought to exist, so that a put can be sent as the command that will succeed.

use std::collections::{BTreeMap, BTreeSet};

use fairway_desired::ipvs::{Key, RealServerKey, VirtualServerKey};

/// The keys in the kernel, as far as known: from the last observation and from what was done since.
///
/// It only saves a round trip. The kernel says when it is wrong, and then it is put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shadow {
    servers: BTreeMap<VirtualServerKey, BTreeSet<RealServerKey>>,
}

impl Shadow {
    pub(crate) fn contains(&self, key: &Key) -> bool {
        match (self.servers.get(&key.server), &key.real) {
            (Some(reals), Some(real)) => reals.contains(real),
            (server, None) => server.is_some(),
            (None, Some(_)) => false,
        }
    }

    /// The entry exists. A real server needs its virtual server, which exists then too.
    pub(crate) fn insert(&mut self, key: &Key) {
        let reals = match self.servers.get_mut(&key.server) {
            Some(reals) => reals,
            None => self.servers.entry(key.server.clone()).or_default(),
        };
        if let Some(real) = &key.real
            && !reals.contains(real)
        {
            reals.insert(real.clone());
        }
    }

    /// The entry does not exist. The kernel deletes a virtual server with its real servers.
    pub(crate) fn remove(&mut self, key: &Key) {
        match &key.real {
            None => drop(self.servers.remove(&key.server)),
            Some(real) => {
                if let Some(reals) = self.servers.get_mut(&key.server) {
                    reals.remove(real);
                }
            }
        }
    }
}
