//! Kubernetes YAML and JSON to fairway objects.
