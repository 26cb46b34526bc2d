//! Flags are text here; whoever knows them says what is wrong with them, and this module says where.

use crate::diagnostic::Diagnostic;
use crate::scenario::Scenario;
use crate::source::At;

/// What is wrong with one word of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagError {
    /// Which word, from 0; one beyond the last means the command line as a whole.
    pub index: usize,
    /// What is wrong with it.
    pub message: String,
}

impl Scenario {
    /// The command line of a node's agent: the common flags, then its own.
    pub fn flags_of(&self, node: &str) -> Vec<String> {
        self.placed_flags(node).into_iter().map(|flag| flag.value.clone()).collect()
    }

    fn placed_flags(&self, node: &str) -> Vec<&At<String>> {
        let own = self.topology.nodes.get(node).map(|node| node.flags.as_slice()).unwrap_or_default();
        self.flags.iter().chain(own).collect()
    }

    /// Has the command line of each node checked; the answers become diagnostics with a place, each once.
    pub fn check_flags(&self, check: &mut dyn FnMut(&str, &[String]) -> Vec<FlagError>) -> Vec<Diagnostic> {
        let mut diagnostics: Vec<Diagnostic> = Vec::new();
        for node in self.topology.nodes.keys() {
            let placed = self.placed_flags(node);
            let words: Vec<String> = placed.iter().map(|flag| flag.value.clone()).collect();
            for error in check(node, &words) {
                let message = error.message;
                let diagnostic = match placed.get(error.index).or(placed.last()) {
                    Some(flag) => Diagnostic::new(message, &flag.span),
                    None => Diagnostic::without_place(format!("{}: {message}", self.source.name)),
                };
                if !diagnostics.contains(&diagnostic) {
                    diagnostics.push(diagnostic);
                }
            }
        }
        diagnostics
    }
}
