//! An in-memory Linux network: FIB, rules, IPVS, filter, conntrack and the packet walk.
