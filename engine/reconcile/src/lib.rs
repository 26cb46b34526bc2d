//! Desired state against actual state: tracker, order, retry, resync.
