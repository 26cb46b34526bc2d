//! Where a run tells what it does while it does it.

use std::io;
use std::time::Duration;

use crate::text::show_duration;

/// Something worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A step begins.
    Step {
        /// Time on the stage.
        at: Duration,
        /// What it is.
        title: &'a str,
    },
    /// A command is typed: `vm-201$ gobgp neighbor`.
    Command {
        /// Host it is typed on.
        host: &'a str,
        /// What is typed.
        command: &'a str,
    },
    /// What the command printed.
    Output(&'a str),
    /// A remark: what was done, what holds.
    Remark(&'a str),
    /// A step failed.
    Failed {
        /// Place in the file.
        place: &'a str,
        /// What should have been.
        expected: &'a str,
        /// What was.
        seen: &'a str,
    },
}

/// Where a run tells what it does.
pub trait Sink {
    /// Takes one event.
    fn event(&mut self, event: Event<'_>);
}

/// Tells nobody.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Sink for Silent {
    fn event(&mut self, _: Event<'_>) {}
}

/// Plain text, like a terminal in which someone types.
#[derive(Debug)]
pub struct TextSink<W> {
    out: W,
    error: Option<io::Error>,
}

impl<W: io::Write> TextSink<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        TextSink { out, error: None }
    }

    /// Gives the writer back, or the first error it made: a run does not stop because nobody listens any more.
    pub fn finish(self) -> io::Result<W> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.out),
        }
    }

    fn write(&mut self, text: &str) {
        if self.error.is_none()
            && let Err(error) = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush())
        {
            self.error = Some(error);
        }
    }
}

impl<W: io::Write> Sink for TextSink<W> {
    fn event(&mut self, event: Event<'_>) {
        let indented = |label: &str, text: &str| {
            let pad = " ".repeat(label.len());
            let lines = text.lines().enumerate();
            lines.map(|(n, line)| format!("{}{line}\n", if n == 0 { label } else { &pad })).collect::<String>()
        };
        let text = match event {
            Event::Step { at, title } => format!("\n[{:>7}] {title}\n", show_duration(at)),
            Event::Command { host, command } => format!("{host}$ {command}\n"),
            Event::Output(text) if text.is_empty() || text.ends_with('\n') => text.to_owned(),
            Event::Output(text) => format!("{text}\n"),
            Event::Remark(text) => indented("          ", text),
            Event::Failed { place, expected, seen } => {
                let expected = indented("  expected  ", expected);
                format!("\nfailed at {place}\n{expected}{}", indented("  seen      ", seen))
            }
        };
        self.write(&text);
    }
}
