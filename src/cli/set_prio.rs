//! `emptcp set-prio`

use anyhow::Result;

use super::Done;
use super::inject::Which;
use super::inject::send;
use super::inject::wrong_usage;
use crate::frame::Opt;
use crate::frame::To;

#[derive(Debug, clap::Args)]
#[command(override_usage = "emptcp set-prio [OPTIONS] <SUBFLOW|--token TOKEN> <backup|nobackup>")]
pub(super) struct Args {
    /// The subflow, as `emptcp subflows` prints it or as a key of a table
    /// ("10.0.0.1:999-10.0.0.2:80"), either end first; and "backup": only where no other subflow
    /// can be used, or "nobackup".
    #[arg(required = true, num_args = 1..=2, value_name = "SUBFLOW PRIORITY")]
    words: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// Who shall treat them so when it sends.
    #[arg(long, value_enum, default_value = "both")]
    to: To,
}

pub(super) fn run(json: bool, args: &Args) -> Result<Done> {
    let (subflow, priority) = args.which.split(&args.words);
    let option = match priority {
        "backup" => Opt::prio(true),
        "nobackup" => Opt::prio(false),
        other => wrong_usage(&format!("expected backup or nobackup, not {other:?}")),
    };
    send(json, subflow, &args.which, args.to, &option)
}
