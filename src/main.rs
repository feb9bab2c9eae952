//! The `emptcp` command.
fn main() {}
