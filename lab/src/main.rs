//! The `emptcp-lab` command.
fn main() {}
