//! An in-memory Kubernetes API server with the controllers a cluster has anyway.
