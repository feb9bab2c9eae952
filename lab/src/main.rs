//! The `emptcp-lab` command.

mod cli;
mod run;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let failed = cli.failure();
    match cli.execute() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("emptcp-lab: {error:#}");
            ExitCode::from(failed)
        }
    }
}
