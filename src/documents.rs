//! `fairway completions` and `fairway man`: made from the same tables as the command line itself.

use std::io::{self, Write};

use clap::{Command, CommandFactory, ValueEnum};

use crate::{Cli, USAGE, flags};

/// Form of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The command line with the daemon's flags, which `main` hands to the daemon unread.
fn whole() -> Command {
    Cli::command().mut_subcommand("node", |_| flags::node_command("node"))
}

fn print(bytes: &[u8]) -> u8 {
    // Whoever reads may have seen enough.
    let _gone = io::stdout().write_all(bytes);
    0
}

pub(crate) fn completions(shell: clap_complete::Shell) -> u8 {
    let mut script = vec![];
    clap_complete::generate(shell, &mut whole(), "fairway", &mut script);
    print(&script)
}

pub(crate) fn man(command: Option<&str>) -> u8 {
    let mut whole = whole();
    whole.build();
    let page = match command {
        None => Some(&whole),
        Some(name) => whole.find_subcommand(name),
    };
    let Some(page) = page else {
        let _gone = writeln!(io::stderr(), "fairway man: no such command; `fairway --help` lists them");
        return USAGE;
    };
    let mut text = vec![];
    match clap_mangen::Man::new(page.clone()).render(&mut text) {
        Ok(()) => print(&text),
        Err(error) => {
            let _gone = writeln!(io::stderr(), "fairway man: {error}");
            1
        }
    }
}
