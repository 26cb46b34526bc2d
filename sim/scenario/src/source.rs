//! The text of a file and places in it.

use std::ops::Deref;
use std::sync::Arc;

/// One file as it was read. Kept as long as the scenario, so that a step that fails an hour of virtual time later
/// can still be shown with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name as the user gave it, for messages.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// A place in a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The file.
    pub source: Arc<Source>,
    /// First byte.
    pub start: usize,
    /// One past the last byte; equal to `start` when only a position is known.
    pub end: usize,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
}

impl Span {
    /// `file:line:column`, as compilers print it.
    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.source.name, self.line, self.column)
    }

    /// The text at the place.
    pub fn text(&self) -> &str {
        self.source.text.get(self.start..self.end).unwrap_or("")
    }
}

/// A value that knows where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub span: Span,
}

impl<T> Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}
