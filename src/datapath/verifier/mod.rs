//! What the kernel's verifier says, for people: the line of the source, what the
//! registers held, the usual cause and its cure.

mod cause;
mod log;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;
use std::fmt::Write as _;

use anyhow::Error;

use self::cause::Cause;
use self::log::Log;
use crate::sys::Refused;
use crate::sys::SourceLine;

/// Lines of the end of the log that stand for a cause that nobody knows.
const TAIL: usize = 12;

/// A program that the verifier refused.
#[derive(Debug)]
struct Rejection {
    text: String,
    log: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Rejection {}

/// The verifier's log, if an error is about a program that it refused.
pub fn verifier_log(error: &Error) -> Option<&str> {
    let rejection = error.downcast_ref::<Rejection>()?;
    Some(&rejection.log)
}

/// The error of a program that the kernel refused; `what`: the step, or whose program it is.
pub(super) fn explain(what: &str, refused: &Refused) -> Error {
    Error::new(Rejection {
        text: report(what, refused),
        log: refused.log.clone(),
    })
}

/// As compilers report an error.
fn report(what: &str, refused: &Refused) -> String {
    let log = Log::parse(&refused.log);
    let found = Cause::of(&log, &refused.error);
    let mut text = format!("{what}: the kernel refuses the program");
    match &found {
        Some((cause, _)) => add(&mut text, format_args!(" [{}]", cause.name)),
        None => add(&mut text, format_args!(": {}", refused.error)),
    }
    place(&mut text, &log, &refused.lines);
    let Some((cause, message)) = found else {
        for line in log.tail(TAIL) {
            add(&mut text, format_args!("\n  {line}"));
        }
        return text;
    };
    add(&mut text, format_args!("\n  verifier: {message}"));
    for (register, state) in log.registers_of_failure(message) {
        let words = words::of(state);
        add(&mut text, format_args!("\n  {register} is {words}"));
    }
    add(&mut text, format_args!("\n  cause: {}", cause.why));
    add(&mut text, format_args!("\n  cure: {}", cause.cure));
    text
}

fn add(text: &mut String, part: fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(part);
}

/// Where it is in the source; for a line of a header also the line of the module before it.
fn place(text: &mut String, log: &Log<'_>, lines: &[SourceLine]) {
    // What is true of the program as a whole is told of no instruction.
    let at = log.failed_at.unwrap_or(0);
    let Some(at) = line_of(lines, at) else {
        if let Some(source) = log.source {
            add(text, format_args!("\n  source: {source}"));
        }
        return;
    };
    show(text, "-->", at);
    // The program begins in the module's own file, with the macro that declares it.
    let own = &lines[0];
    if at.file != own.file {
        let path = log.path.iter().rev();
        let mut before = path.filter_map(|(insn, _)| line_of(lines, *insn));
        if let Some(before) = before.find(|l| l.file == own.file && l.line != own.line) {
            show(text, "behind", before);
        }
    }
}

fn show(text: &mut String, word: &str, at: &SourceLine) {
    add(text, format_args!("\n  {word} {}:{}", at.file, at.line));
    if !at.text.trim().is_empty() {
        let number = at.line.to_string();
        add(text, format_args!("\n  {number} | {}", at.text.trim()));
    }
}

/// The line that an instruction comes from.
fn line_of(lines: &[SourceLine], insn: u32) -> Option<&SourceLine> {
    let behind = lines.partition_point(|l| l.insn <= insn);
    lines.get(behind.checked_sub(1)?)
}
