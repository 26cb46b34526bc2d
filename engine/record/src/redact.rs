//! Passwords, and the names that stand for them.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use fairway_agent::{Input, Output, bgp};
use fairway_objects::{Delta, NodeConfig, Object, Role, RouterConfig};

/// Which name stands for which password: the number of its first appearance, which says nothing of it.
#[derive(Clone, Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    fn replace(&mut self, password: &mut Option<String>) {
        if let Some(password) = password {
            let next = self.0.len() + 1;
            let name = self.0.entry(core::mem::take(password)).or_insert_with(|| format!("password-{next}"));
            password.clone_from(name);
        }
    }

    fn router(&mut self, router: &mut RouterConfig) {
        router.peers.iter_mut().for_each(|peer| self.replace(&mut peer.password));
    }

    pub(crate) fn config(&mut self, config: &mut NodeConfig) {
        config.peers.iter_mut().for_each(|peer| self.replace(&mut peer.password));
        if let Role::Router(router) = &mut config.role {
            self.router(router);
        }
    }

    pub(crate) fn input(&mut self, input: &mut Input) {
        match input {
            Input::Delta(Delta::Put { object: Object::Node(node), .. })
                if node.peers.iter().any(|peer| peer.password.is_some()) =>
            {
                Arc::make_mut(node).peers.iter_mut().for_each(|peer| self.replace(&mut peer.password));
            }
            Input::Router(router) => self.router(router),
            _ => {}
        }
    }

    /// The output as an agent would give it that knows only the names; `None` if it has no password in it.
    pub(crate) fn output(&mut self, output: &Output) -> Option<Output> {
        let mut output = match output {
            Output::Bgp(
                output @ (bgp::Output::Password { password: Some(_), .. }
                | bgp::Output::Connect { password: Some(_), .. }),
            ) => output.clone(),
            _ => return None,
        };
        if let bgp::Output::Password { password, .. } | bgp::Output::Connect { password, .. } = &mut output {
            self.replace(password);
        }
        Some(Output::Bgp(output))
    }
}
