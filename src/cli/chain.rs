//! `emptcp chain`: changes of one chain of the policy in force.

use std::path::PathBuf;

use anyhow::Result;
use anyhow::bail;
use serde_json::json;

use super::Context;
use super::Done;
use super::apply::put_in_force;
use super::print_invalid;
use crate::datapath::Origin;
use crate::datapath::policy as policy_in_force;
use crate::policy::Edit;
use crate::policy::edit;
use crate::policy::read_one;

/// How often the policy in force may be exchanged by others while a change of it is prepared.
const ATTEMPTS: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    change: Change,
    /// Print what would change, and change nothing (exit code 3: something would).
    #[arg(long, global = true)]
    dry_run: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Change {
    /// Add a chain behind the others.
    Add {
        /// A chain, as it stands in "chains"; -: standard input.
        file: PathBuf,
    },
    /// Put a chain in the place of the one of the same name.
    Replace {
        /// The chain.
        name: String,
        /// A chain, as it stands in "chains"; -: standard input.
        file: PathBuf,
    },
    /// Remove a chain.
    Delete {
        /// The chain.
        name: String,
    },
    /// Load a chain that is disabled.
    Enable {
        /// The chain.
        name: String,
    },
    /// Keep a chain in the policy, but do not load it.
    Disable {
        /// The chain.
        name: String,
    },
}

pub(super) fn run(context: &Context, args: Args) -> Result<Done> {
    let change = match args.change {
        Change::Add { file } => read_one(&file).map(Edit::Add),
        Change::Replace { name, file } => read_one(&file).map(|file| Edit::Replace(name, file)),
        Change::Delete { name } => Ok(Edit::Delete(name)),
        Change::Enable { name } => Ok(Edit::Enable(name)),
        Change::Disable { name } => Ok(Edit::Disable(name)),
    };
    let change = match change {
        Ok(change) => change,
        Err(error) => return print_invalid(context, &[error]),
    };
    for _ in 0..ATTEMPTS {
        let (before, generation) = match policy_in_force()? {
            Some(before) => (before.policy, before.generation),
            None => (json!({ "version": crate::policy::VERSION }), 0),
        };
        let policy = match edit(&before, &change) {
            Ok(policy) => policy,
            Err(errors) => return print_invalid(context, &errors),
        };
        let origin = Origin::InForce { generation };
        if let Some(done) = put_in_force(context, &policy, origin, args.dry_run)? {
            return Ok(done);
        }
    }
    bail!("others change the policy all the time: nothing was changed")
}
