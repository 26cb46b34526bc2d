//! An in-memory Kubernetes API server with the controllers a cluster has anyway.
//!
//! Objects are stored as JSON, as a client wrote them plus what the server and its controllers add: defaults, addresses,
//! pods of Deployments and their nodes, EndpointSlices, node conditions. Each watcher hears of a change with a lag of
//! its own, drawn from the seed; changes to one object within the lag become one. Time is an argument, and the same
//! seed gives the same cluster.
//!
//! For clients that speak HTTP (`fairway-apiserver`) there are the REST verbs ([`Api::create`], [`Api::replace`],
//! [`Api::delete_with`]) and the changes since a resource version ([`Api::changes_since`]), of which a bounded number is
//! remembered.
//!
//! Deliberately not here: what a node does with an object (the engine), pods as processes (whoever drives this is the
//! kubelet), admission and authorisation. A Deployment makes its pods directly, without a ReplicaSet between. Start
//! reading at [`Api`].

mod api;
mod apply;
mod controllers;
mod misbehave;
mod pods;
mod rest;
mod services;
mod store;
mod watch;

pub use api::{Api, ApiConfig, ApiError, ContainerPort, NodeSpec, Output, PodStart};
pub use apply::{Action, Applied, ApplyError, merge, three_way};
pub use misbehave::{Misbehaviour, UnknownMisbehaviour};
pub use rest::{DeleteOptions, Part};
pub use store::{Change, Gone, cluster_scoped};
pub use watch::WatcherId;

/// Virtual time since the start of the cluster.
pub type Time = std::time::Duration;
