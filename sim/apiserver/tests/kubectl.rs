//! The real kubectl against the server.

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Cluster, NODE};
use fairway_apiserver::{Options, kubeconfig};

#[test]
fn first() {
    let cluster = Cluster::start(Options::default());
    cluster.apply(NODE);
    std::fs::write("/tmp/as-kc", kubeconfig(&format!("http://{}", cluster.address()), None)).unwrap();
    println!("{}", cluster.address());
    if let Ok(s) = std::env::var("KEEP") {
        std::thread::sleep(Duration::from_secs(s.parse().unwrap()));
    }
}
