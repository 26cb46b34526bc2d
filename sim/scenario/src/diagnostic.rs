//! What is wrong in a file, where, and what would be right.

use std::fmt;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::source::Span;

/// One mistake in a scenario file or in a file it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// Where; absent only when there is no text to show (the file cannot be read).
    pub span: Option<Span>,
    /// Short remark beside the underlined text; may be empty.
    pub label: String,
    /// Other places that matter, with a remark each.
    pub also: Vec<(Span, String)>,
    /// What would be right.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// A mistake at a place.
    pub fn new(message: impl Into<String>, span: &Span) -> Self {
        Diagnostic {
            message: message.into(),
            span: Some(span.clone()),
            label: String::new(),
            also: Vec::new(),
            help: Vec::new(),
        }
    }

    /// A mistake that has no place in a text.
    pub fn without_place(message: impl Into<String>) -> Self {
        Diagnostic { message: message.into(), span: None, label: String::new(), also: Vec::new(), help: Vec::new() }
    }

    /// Puts a remark beside the underlined text.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Adds another place that matters.
    #[must_use]
    pub fn also(mut self, span: &Span, remark: impl Into<String>) -> Self {
        self.also.push((span.clone(), remark.into()));
        self
    }

    /// The mistake as a compiler would show it; `colour` adds ANSI escapes.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut group = Group::with_title(Level::ERROR.primary_title(self.message.as_str()));
        if let Some(span) = &self.span {
            let source = &span.source;
            let mark = |span: &Span| {
                let (start, end) = clip(&source.text, span.start, span.end);
                start..end
            };
            let mut primary = AnnotationKind::Primary.span(mark(span));
            if !self.label.is_empty() {
                primary = primary.label(self.label.as_str());
            }
            let mut snippet = Snippet::source(source.text.as_str()).path(source.name.as_str()).annotation(primary);
            for (other, remark) in self.also.iter().filter(|(other, _)| other.source == span.source) {
                snippet = snippet.annotation(AnnotationKind::Context.span(mark(other)).label(remark.as_str()));
            }
            group = group.element(snippet);
        }
        for help in &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }
}

/// Brings a range inside the text and onto character boundaries, so that no file can make the renderer stumble.
fn clip(text: &str, start: usize, end: usize) -> (usize, usize) {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(start);
    (start, floor(end).max(start))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// All mistakes, separated by blank lines, and how many there are.
pub fn render_all(diagnostics: &[Diagnostic], colour: bool) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&diagnostic.render(colour));
        text.push_str("\n\n");
    }
    let plural = if diagnostics.len() == 1 { "" } else { "s" };
    text.push_str(&format!("{} mistake{plural} found\n", diagnostics.len()));
    text
}
