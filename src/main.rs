//! The `fairway` binary: one module per subcommand.
//!
//! This is the only place where the engine's configuration, the simulator and the command line meet.

mod apiserver;
mod bgp;
mod check;
mod cni_install;
mod documents;
mod flags;
mod lab;
mod node;
mod operate;
mod replay;
mod run;
mod schema;
mod status;
mod verbose;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Node networking for Kubernetes, simulation-first.
#[derive(Parser)]
#[command(name = "fairway", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The node daemon, with kube-router's flags (also as `kube-router`); `fairway node --help` lists them.
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Node {
        /// kube-router's flags, and ours.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        args: Vec<OsString>,
    },
    /// All flags of the node daemon.
    Flags {
        /// Only how they differ from those of kube-router 2.11.
        #[arg(long)]
        diff_kube_router: bool,
        /// Form of the output.
        #[arg(short, long, value_enum, default_value_t = documents::Form::Text)]
        output: documents::Form,
    },
    /// Print a completion script for a shell, of all commands and flags.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print a manual page in roff.
    Man {
        /// Of this command, for example `node`; without it of `fairway`.
        command: Option<String>,
    },
    /// An API server in memory with the controllers of a cluster, for kubectl and for tests.
    Apiserver(apiserver::Apiserver),
    /// Copy CNI plugins to where the container runtime looks for them (also as `cni-install`).
    CniInstall(cni_install::CniInstall),
    /// What the BGP speaker of a running daemon sees, and why.
    Bgp(bgp::Bgp),
    /// A running daemon as a whole: planes, what is pending or refused, notices.
    Status(status::Show),
    /// Play what a daemon recorded (`--record`), and compare what its agent does with what it did. Needs no rights.
    Replay(replay::Replay),
    /// Play scenarios.
    Run(run::Run),
    /// Read scenarios without playing them; every mistake is shown with its place.
    Check(check::Check),
    /// Find or build the kernel of the `uml` stage, and print where it is.
    Kernel,
    /// Print the JSON Schema of the scenario file.
    Schema,
    /// Make many connections to one address and count them by the host that answers (also as `mconnect`).
    #[command(disable_help_flag = true)]
    Mconnect {
        /// mconnect's own flags, single dash; `fairway mconnect -help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        args: Vec<String>,
    },
}

/// Exit status of a wrong file or command line.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    if fairway_uml::is_guest_init() {
        fairway_uml::guest_init();
    }
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name().unwrap_or_default();
    if name == "mconnect" {
        return fairway_mconnect::main(args.map(|arg| arg.to_string_lossy().into_owned())).into();
    }
    if name == "kube-router" {
        return node::run(args).into();
    }
    if name == "cni-install" {
        return cni_install::alone().into();
    }
    match Cli::parse().command {
        Command::Node { args } => node::run(args.into_iter()),
        Command::Flags { diff_kube_router, output } => {
            flags::differences(diff_kube_router, output == documents::Form::Json)
        }
        Command::Completions { shell } => documents::completions(shell),
        Command::Man { command } => documents::man(command.as_deref()),
        Command::Apiserver(command) => command.run(),
        Command::CniInstall(command) => command.run(),
        Command::Bgp(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Replay(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Kernel => lab::kernel(),
        Command::Schema => schema::run(),
        Command::Mconnect { args } => fairway_mconnect::main(args.into_iter()),
    }
    .into()
}
