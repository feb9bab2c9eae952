//! The `emptcp` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    emptcp::cli::main()
}
