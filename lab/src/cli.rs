//! The command line.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use emptcp_lab::{Config, netns, traffic};

use crate::run::Run;

/// Emulated links between network namespaces, and real MPTCP traffic over them.
#[derive(Debug, Parser)]
#[command(name = "emptcp-lab", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build a lab, run a command in front of it, remove it
    Run(Run),
    /// Run a command in a namespace, with all mounts (bpffs) of the caller
    Exec {
        /// Name of the namespace, or of the host inside `emptcp-lab run`
        netns: String,
        /// The command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Check a lab file
    Check {
        /// The file
        file: PathBuf,
    },
    /// Remove what labs that died have left
    Clean {
        /// Begin of the namespaces' names; labs that run are spared
        #[arg(long, default_value = emptcp_lab::DEFAULT_PREFIX)]
        prefix: String,
    },
    /// Answer `bulk` and `request`
    Serve(traffic::serve::Serve),
    /// Transfer bytes over one connection, downwards unless told otherwise
    Bulk(traffic::bulk::Bulk),
    /// Send requests and wait for their responses
    Request(traffic::request::Request),
}

impl Cli {
    /// The exit code of a failure of our own: 125, as `env` and `timeout` have it, where the exit
    /// code is otherwise that of a command that was run.
    pub(crate) fn failure(&self) -> u8 {
        match self.command {
            Verb::Run(_) | Verb::Exec { .. } => 125,
            _ => 1,
        }
    }

    /// Does what was asked for; returns the exit code.
    pub(crate) fn execute(self) -> Result<u8> {
        match self.command {
            Verb::Run(run) => return run.execute(),
            Verb::Exec {
                netns: name,
                command,
            } => {
                let [program, arguments @ ..] = command.as_slice() else {
                    return Ok(2);
                };
                netns::enter(&netns::resolve(&name))?;
                let error = Command::new(program).args(arguments).exec();
                return Err(error).with_context(|| format!("cannot run {}", program.display()));
            }
            Verb::Check { file } => {
                let config = Config::load(&file)?;
                println!(
                    "{}: {} hosts, {} links",
                    file.display(),
                    config.hosts.len(),
                    config.links.len()
                );
            }
            Verb::Clean { prefix } => {
                for name in emptcp_lab::clean(&prefix)? {
                    println!("removed {name}");
                }
            }
            Verb::Serve(serve) => serve.run()?,
            Verb::Bulk(bulk) => bulk.run()?,
            Verb::Request(request) => request.run()?,
        }
        Ok(0)
    }
}
