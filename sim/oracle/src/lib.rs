//! What Kubernetes promises, judged from the objects alone.
