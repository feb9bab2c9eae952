//! What the kernel's verifier says, for people.

use anyhow::Error;
use anyhow::anyhow;

use crate::sys::Refused;

/// Lines of the end of the log that go into a message.
const TAIL: usize = 12;

/// The error of a program that the kernel refused.
pub(super) fn explain(what: &str, refused: &Refused) -> Error {
    let lines: Vec<&str> = refused
        .log
        .lines()
        .filter(|l| !l.trim().is_empty())
        .collect();
    // The summary behind the verdict says nothing of the cause.
    let end = lines
        .iter()
        .rposition(|l| !l.starts_with("processed "))
        .map_or(0, |i| i + 1);
    let source = lines[..end].iter().rev().find(|l| l.starts_with("; "));
    let mut text = format!("{what}: the kernel refuses the program: {}", refused.error);
    if let Some(source) = source {
        text += &format!("\n  at source line: {}", source.trim_start_matches("; "));
    }
    for line in &lines[end.saturating_sub(TAIL)..end] {
        text += &format!("\n  {line}");
    }
    anyhow!(text)
}
