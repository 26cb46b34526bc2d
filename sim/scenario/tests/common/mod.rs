//! What all tests of this crate share: a scenario that uses every key, and the files it names.
#![allow(dead_code, unreachable_pub, reason = "not every test uses everything")]

use std::io;

use fairway_scenario::{Diagnostic, Scenario};

/// The manifest of the seed scenario, shortened.
pub const MCONNECT: &str = "\
apiVersion: v1
kind: Service
metadata: {name: mconnect}
spec: {selector: {app: mconnect}, externalIPs: [10.0.0.2], ports: [{port: 5001}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mconnect-deployment}
spec: {replicas: 4}
";

/// Every key of the schema, once at least.
pub const EVERYTHING: &str = include_str!("everything.yaml");

pub fn files(name: &str) -> io::Result<String> {
    match name {
        "mconnect.yaml" => Ok(MCONNECT.to_owned()),
        "broken.yaml" => Ok("kind: Service\nmetadata: {name: a\nspec: 1\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

pub fn parse(text: &str) -> Result<Scenario, Vec<Diagnostic>> {
    fairway_scenario::parse("test.yaml", text, &files)
}

pub fn good(text: &str) -> Scenario {
    match parse(text) {
        Ok(scenario) => scenario,
        Err(diagnostics) => panic!("{}", fairway_scenario::render_all(&diagnostics, false)),
    }
}
