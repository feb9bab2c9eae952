//! Arguments of `emptcp run` for programs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;

use crate::params::literal;
use crate::policy::Place;
use crate::policy::quantity;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Programs that decide")]
#[group(skip)]
pub(in crate::cli::run) struct Args {
    /// Start a program that decides, talk to it over its standard input and output, and start it
    /// again when it ends.
    #[arg(long, value_name = "PROGRAM")]
    pub(super) exec: Option<PathBuf>,
    /// The program runs as this user, without any privilege.
    #[arg(long, value_name = "NAME", default_value = "nobody", requires = "exec")]
    pub(super) user: String,
    /// Make a Unix socket at which other programs do the same.
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Permissions of the socket.
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = mode, requires = "socket")]
    pub(super) mode: u32,
    /// Group of the socket, whose members may use it; else root and who started this alone.
    #[arg(long, value_name = "NAME", requires = "socket")]
    pub(super) group: Option<String>,
    /// How often programs that want to know are told of subflows.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = interval)]
    pub(super) interval: Duration,
    /// Commands of each program in a second.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) command_rate: u32,
    /// Let programs inject options into subflows, too.
    #[arg(long)]
    pub(super) allow_inject: bool,
    /// Take back what a run that has died had put into tables.
    #[arg(long, hide = true)]
    pub(in crate::cli::run) guard: bool,
    /// Arguments of the program.
    #[arg(last = true, value_name = "ARG", requires = "exec")]
    pub(super) args: Vec<OsString>,
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    let mode = mode.filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "expected permissions such as 0660".to_owned())
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = quantity::time(&literal(text, &Place::root(""))).map_err(|e| e.message)?;
    let time = Duration::from_nanos(time);
    let limits = Duration::from_millis(10)..=Duration::from_secs(3600);
    let time = Some(time).filter(|time| limits.contains(time));
    time.ok_or_else(|| "expected 10ms to 1h".to_owned())
}

/// A program that has gone is an error of a write, not the end of this process.
pub(super) fn hold_sigpipe() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGPIPE);
    signals.thread_block().context("cannot hold back SIGPIPE")
}
