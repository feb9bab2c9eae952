//! `emptcp bench`

use anyhow::Result;

use super::Context;
use super::Done;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_context: &Context, _args: &Args) -> Result<Done> {
    Ok(Done::Yes)
}
