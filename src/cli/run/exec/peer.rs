//! One program that decides, at the other end of two pipes or of a socket.

use std::fs::File;
use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::cli::notices::is_of_packets;
use crate::event::Type;
use crate::exec::Answer;
use crate::exec::Bucket;
use crate::exec::Command;
use crate::exec::LONGEST;
use crate::exec::Lines;
use crate::exec::Outbox;
use crate::exec::Owner;
use crate::exec::VERSION;
use crate::exec::answer_line;
use crate::exec::parse;

/// Bytes that wait for a program that does not read; what comes behind is lost.
const ROOM: usize = 4 << 20;
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// What is wrong with a program's lines, at once and in a second, before it is ended.
const STRIKES: (u32, u32) = (20, 1);
/// How long a program is not listened to that gives too many commands.
const PAUSE: Duration = Duration::from_millis(100);

/// What a program wants to be told.
#[derive(Debug, Default)]
pub(super) struct Wants {
    pub(super) events: Vec<Type>,
    pub(super) metrics: bool,
    pub(super) changed_only: bool,
    pub(super) kernel: bool,
}

impl Wants {
    /// Whether it wants events that come from packets, for which there is one reader.
    pub(super) fn of_packets(&self) -> bool {
        self.events.iter().copied().any(is_of_packets)
    }
}

/// A program.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) owner: Owner,
    /// As messages call it.
    pub(super) name: String,
    pub(super) wants: Wants,
    /// The look at subflows that it was told of last; those that have gone since.
    pub(super) told: u64,
    pub(super) gone: Vec<String>,
    /// Looks that it was not told of, because it still had something to read.
    pub(super) skipped: u64,
    since: Instant,
    input: File,
    output: File,
    lines: Lines,
    outbox: Outbox,
    commands: Bucket,
    rate: u32,
    strikes: Bucket,
    /// When it is listened to again.
    resumes: Option<Instant>,
    /// A command that must wait.
    waiting: Option<(Value, Command)>,
    /// There may be more lines than were done at once.
    more: bool,
    ended: Option<String>,
    /// Nothing that it asks for is done any more.
    struck: bool,
    quiet: bool,
}

impl Peer {
    /// `input`: what is written to reaches it; from `output` comes what it writes. Neither blocks.
    pub(super) fn new(
        name: String,
        (input, output): (File, File),
        rate: u32,
        now: Instant,
    ) -> Self {
        Self {
            owner: 0,
            name,
            wants: Wants::default(),
            told: 0,
            gone: Vec::new(),
            skipped: 0,
            since: now,
            input,
            output,
            lines: Lines::default(),
            outbox: Outbox::new(ROOM),
            commands: Bucket::new(rate, rate, now),
            rate,
            strikes: Bucket::new(STRIKES.1, STRIKES.0, now),
            resumes: None,
            waiting: None,
            more: false,
            ended: None,
            struck: false,
            quiet: false,
        }
    }

    /// That it goes is nothing to speak of.
    pub(super) fn goes_quietly(&mut self) {
        self.quiet = true;
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// What is waited for to read.
    pub(super) fn reads(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        self.listens(now).then(|| self.output.as_fd())
    }

    /// What is waited for to write to.
    pub(super) fn writes(&self) -> Option<BorrowedFd<'_>> {
        (!self.outbox.is_empty()).then(|| self.input.as_fd())
    }

    /// When something is to be done though nothing comes. `retry`: when a command that waits is
    /// tried again.
    pub(super) fn due(&self, retry: Option<Instant>) -> Option<Instant> {
        let more = self.more || self.waiting.is_some();
        let now = more.then(|| retry.unwrap_or(self.since));
        self.resumes.or(now)
    }

    fn listens(&self, now: Instant) -> bool {
        let resumed = self.resumes.is_none_or(|resumes| resumes <= now);
        resumed && self.waiting.is_none() && !self.more
    }

    /// Reads what is there, a piece of it.
    pub(super) fn read(&mut self, now: Instant) {
        if !self.listens(now) {
            return;
        }
        let mut piece = [0; PIECE];
        while self.lines.len() <= LONGEST {
            match self.output.read(&mut piece) {
                Ok(0) => return self.end("has ended".to_owned()),
                Ok(count) => self.lines.push(&piece[..count]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => return self.end(e.to_string()),
            }
        }
    }

    /// The next command, where there is one; what is none is answered here.
    pub(super) fn next_command(&mut self, now: Instant) -> Option<(Value, Command)> {
        if self.resumes.is_some_and(|resumes| now < resumes) || self.struck {
            return None;
        }
        self.resumes = None;
        if let Some(waiting) = self.waiting.take() {
            return Some(waiting);
        }
        loop {
            let line = self.lines.next();
            self.more = line.is_some();
            let (id, error) = match line? {
                Ok(line) => match (parse(&line), self.commands.take(now)) {
                    (Ok(command), true) => return Some(command),
                    (Ok((id, _)) | Err((id, _)), false) => {
                        self.resumes = Some(now + PAUSE);
                        let rate = self.rate;
                        (
                            id,
                            format!("not done: more than {rate} commands in a second"),
                        )
                    }
                    (Err(error), true) => error,
                },
                Err(()) => {
                    let message = format!("expected lines of {LONGEST} bytes at most");
                    (Value::Null, message)
                }
            };
            self.answer(&id, Err(error));
            if !self.strikes.take(now) {
                self.struck = true;
                self.end("is ended: too many lines that are no commands, or too fast".to_owned());
            }
            if self.struck || self.resumes.is_some() {
                return None;
            }
        }
    }

    /// A command that cannot be done yet.
    pub(super) fn put_back(&mut self, id: Value, command: Command) {
        self.waiting = Some((id, command));
    }

    pub(super) fn answer(&mut self, id: &Value, answer: Answer) {
        self.push(answer_line(id, answer).as_bytes());
    }

    /// A line; `false`: it is lost.
    pub(super) fn push(&mut self, line: &[u8]) -> bool {
        self.outbox.push(line)
    }

    /// A line, in pieces, of which the peer has room for one round.
    pub(super) fn push_round(&mut self, line: &[&[u8]]) {
        self.outbox.push_round(line);
    }

    /// Whether it has read all that it was told.
    pub(super) fn has_read(&self) -> bool {
        self.outbox.is_empty()
    }

    /// The first line.
    pub(super) fn hello(&mut self, interval: Duration) {
        let hello = json!({
            "emptcp": VERSION,
            "event": "hello",
            "version": env!("CARGO_PKG_VERSION"),
            "interval_ms": interval.as_secs_f64() * 1e3,
            "commands_per_second": self.rate,
        });
        self.push(format!("{hello}\n").as_bytes());
    }

    /// What is no answer to a command.
    pub(super) fn tell_error(&mut self, message: &str) {
        let error = json!({ "event": "error", "message": message });
        self.push(format!("{error}\n").as_bytes());
    }

    /// Writes what can be written now.
    pub(super) fn flush(&mut self) {
        while !self.outbox.is_empty() {
            match self.input.write(self.outbox.front()) {
                Ok(count) => self.outbox.written(count),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // Why, the other direction tells.
                Err(_) => return self.end("has ended".to_owned()),
            }
        }
    }

    /// It is over.
    pub(super) fn end(&mut self, why: String) {
        self.ended.get_or_insert(why);
    }

    /// Whether it was ended for what it wrote.
    pub(super) fn is_struck(&self) -> bool {
        self.struck
    }

    /// Why it is over, if it is.
    pub(super) fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }
}
