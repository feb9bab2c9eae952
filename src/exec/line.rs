//! Lines that come in pieces, and lines that wait until somebody reads.

use std::collections::VecDeque;

use serde_json::json;

/// The longest line that is taken, in bytes.
pub(crate) const LONGEST: usize = 64 << 10;

/// Puts lines together from what was read.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// Up to where there is no end of a line.
    searched: usize,
    /// What comes up to the next end of a line belongs to one that was too long.
    skips: bool,
}

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line without its end; `Err`: one that is too long, told once. `None`: not there yet.
    pub(crate) fn next(&mut self) -> Option<Result<Vec<u8>, ()>> {
        loop {
            let end = self.bytes[self.searched..].iter().position(|b| *b == b'\n');
            let Some(end) = end else {
                self.searched = self.bytes.len();
                if self.searched <= LONGEST {
                    return None;
                }
                self.bytes.clear();
                self.searched = 0;
                return (!std::mem::replace(&mut self.skips, true)).then_some(Err(()));
            };
            let line: Vec<u8> = self.bytes.drain(..=self.searched + end).collect();
            self.searched = 0;
            if std::mem::take(&mut self.skips) {
                continue;
            }
            if line.len() > LONGEST + 1 {
                return Some(Err(()));
            }
            return Some(Ok(line[..line.len() - 1].to_vec()));
        }
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Lines that wait to be written: so many bytes at most. What does not fit is lost, counted, and
/// told as soon as there is room.
#[derive(Debug)]
pub(crate) struct Outbox {
    bytes: VecDeque<u8>,
    /// The most that has waited since nothing did.
    most: usize,
    room: usize,
    /// Lines that were lost and not told of.
    lost: u64,
    total: u64,
}

impl Outbox {
    pub(crate) fn new(room: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            most: 0,
            room,
            lost: 0,
            total: 0,
        }
    }

    /// Takes a line with its end; `false`: it is lost.
    pub(crate) fn push(&mut self, line: &[u8]) -> bool {
        let record = self.record();
        // Where this line does not fit behind it, the record says too little.
        if self.bytes.len() + record.len() + line.len() > self.room {
            self.lost += 1;
            self.total += 1;
            return false;
        }
        self.push_round(&[line]);
        true
    }

    /// What tells of lines that were lost; empty where none were.
    fn record(&self) -> String {
        match self.lost {
            0 => String::new(),
            lost => {
                let record = json!({ "event": "lost", "lines": lost, "total": self.total });
                format!("{record}\n")
            }
        }
    }

    /// Takes a line, in pieces, of which there is one at a time, however long.
    pub(crate) fn push_round(&mut self, line: &[&[u8]]) {
        self.bytes.extend(self.record().as_bytes());
        for piece in line {
            self.bytes.extend(*piece);
        }
        self.most = self.most.max(self.bytes.len());
        self.lost = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next bytes to write.
    pub(crate) fn front(&self) -> &[u8] {
        let (first, second) = self.bytes.as_slices();
        if first.is_empty() { second } else { first }
    }

    /// So many of them are written.
    pub(crate) fn written(&mut self, count: usize) {
        self.bytes.drain(..count);
        if self.bytes.is_empty() {
            // A large round is over; the next one may be as large.
            if self.bytes.capacity() / 4 > self.most.max(LONGEST) {
                self.bytes.shrink_to(self.most.max(LONGEST));
            }
            self.most = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines) -> Vec<Result<String, ()>> {
        let text = |line: Vec<u8>| String::from_utf8_lossy(&line).into_owned();
        std::iter::from_fn(|| lines.next())
            .map(|line| line.map(text))
            .collect()
    }

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = Lines::default();
        lines.push(b"one\n\ntw");
        let text = |words: &[&str]| {
            words
                .iter()
                .map(|w| Ok((*w).to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(all(&mut lines), text(&["one", ""]));
        lines.push(b"o");
        assert_eq!(all(&mut lines), text(&[]));
        lines.push(b"\nthree\n");
        assert_eq!(all(&mut lines), text(&["two", "three"]));
    }

    #[test]
    fn a_line_that_is_too_long_is_told_once() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LONGEST]);
        assert_eq!(all(&mut lines), []);
        lines.push(b"\n");
        assert_eq!(all(&mut lines), [Ok("x".repeat(LONGEST))]);
        for _ in 0..5 {
            lines.push(&vec![b'x'; LONGEST]);
        }
        assert_eq!(all(&mut lines), [Err(())]);
        lines.push(&vec![b'x'; 2 * LONGEST]);
        assert_eq!(all(&mut lines), []);
        assert_eq!(lines.len(), 0);
        lines.push(b"xxx\nshort\n");
        assert_eq!(all(&mut lines), [Ok("short".to_owned())]);
        let mut whole = vec![b'x'; LONGEST + 1];
        whole.extend(b"\nshort\n");
        lines.push(&whole);
        assert_eq!(all(&mut lines), [Err(()), Ok("short".to_owned())]);
    }

    #[test]
    fn what_is_lost_is_told() {
        let mut outbox = Outbox::new(100);
        let line = [b'x'; 40];
        assert!(outbox.push(&line) && outbox.push(&line));
        assert!(!outbox.push(&line) && !outbox.push(&line));
        assert!(!outbox.push(b"yy"), "what comes behind is not before");
        outbox.written(80);
        assert!(outbox.push(b"z\n"));
        let told = "{\"event\":\"lost\",\"lines\":3,\"total\":3}\nz\n";
        assert_eq!(outbox.front(), told.as_bytes());
        outbox.written(told.len());
        assert!(outbox.is_empty());
    }
}
