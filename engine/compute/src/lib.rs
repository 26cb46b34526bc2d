//! Kubernetes objects to the desired state of one node, incrementally.
