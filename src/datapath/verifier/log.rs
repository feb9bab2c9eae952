//! The verifier's log: the path to the instruction that it refused, what the
//! registers held, and what it said. Written for kernels 5.10 to 6.18, whose
//! wording differs; what is not understood is passed over.

use std::collections::BTreeMap;

/// A log, taken apart.
#[derive(Debug, Default)]
pub(super) struct Log<'a> {
    /// Instructions on the way to the failure: number and text.
    pub(super) path: Vec<(u32, &'a str)>,
    /// The instruction that was refused.
    pub(super) failed_at: Option<u32>,
    /// What the verifier said behind the last instruction.
    pub(super) messages: Vec<&'a str>,
    /// The last line of the source in the log.
    pub(super) source: Option<&'a str>,
    /// What is known of each register, by its name in lower case.
    registers: BTreeMap<String, &'a str>,
    /// The last instruction, whose effect counts for those behind it, and the state behind it.
    last: Option<(&'a str, &'a str)>,
    lines: Vec<&'a str>,
}

impl<'a> Log<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let mut log = Self::default();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            // Statistics behind the verdict.
            let statistics = ["processed ", "verification time ", "stack depth "];
            if statistics.iter().any(|s| line.starts_with(s)) {
                continue;
            }
            log.lines.push(line);
            if let Some(source) = line.strip_prefix("; ") {
                log.source = Some(source);
            } else if let Some((insn, text, state)) = instruction(line) {
                log.settle();
                log.path.push((insn, text));
                log.last = Some((text, state));
                log.messages.clear();
            } else if let Some(state) = whole_state(line) {
                log.last = None;
                log.registers.clear();
                log.learn(state);
                log.messages.clear();
            } else if is_state(line) {
                log.settle();
                log.learn(line);
            } else {
                log.messages.push(line);
            }
        }
        log.failed_at = log.path.last().map(|(insn, _)| *insn);
        // Said of another instruction than the last: "infinite loop detected at insn 7",
        // "back-edge from insn 9 to 7", "Unreleased reference id=2 alloc_insn=7".
        let place = log.messages.iter().find_map(|message| {
            let places = [" detected at insn ", "back-edge from insn ", " alloc_insn="];
            let rest = places.iter().find_map(|p| Some(message.split_once(p)?.1))?;
            leading(rest).parse().ok()
        });
        log.failed_at = place.or(log.failed_at);
        for message in log.messages.clone() {
            if let Some((register, state)) = said_of_register(message) {
                let known = log.registers.entry(register).or_insert(state);
                // How much is checked is printed behind an access only, not behind the check.
                if state
                    .rsplit_once("r=")
                    .is_some_and(|(_, r)| !known.contains(&format!("r={r}")))
                {
                    *known = state;
                }
            }
        }
        log
    }

    /// The last instruction was taken: what it writes is no longer what it was.
    fn settle(&mut self) {
        let Some((text, state)) = self.last.take() else {
            return;
        };
        if text.starts_with("call ") {
            let moved = moves_packet(text);
            self.registers.retain(|name, state| {
                let is_kept = !matches!(name.as_str(), "r0" | "r1" | "r2" | "r3" | "r4" | "r5");
                is_kept && (!moved || !state.starts_with("pkt"))
            });
        } else if let Some(written) = written(text) {
            // Linux 5.10 prints no states between jumps: what is plain is followed here.
            match text
                .split_once(" = ")
                .and_then(|(_, from)| self.plain(from))
            {
                Some(value) => self.registers.insert(written, value),
                None => self.registers.remove(&written),
            };
        }
        self.learn(state);
    }

    /// The value of a number or a register.
    fn plain(&self, from: &'a str) -> Option<&'a str> {
        if from.parse::<i64>().is_ok() {
            return Some(from);
        }
        self.registers.get(from).copied()
    }

    /// Whether a helper on the path may have moved the packet.
    pub(super) fn packet_moved(&self) -> bool {
        self.path.iter().any(|(_, text)| moves_packet(text))
    }

    /// Takes in states such as `R1_w=pkt(off=14,r=14) R2=ctx() fp-8=mmmm????`.
    fn learn(&mut self, state: &'a str) {
        for word in words(state) {
            let Some((name, value)) = word.split_once('=') else {
                continue;
            };
            // `R1_rw`, `R2_w`: how it was used so far.
            let name = name.split('_').next().unwrap_or(name);
            if is_register(name, 'R') {
                self.registers.insert(name.to_lowercase(), value);
            }
        }
    }

    /// The last lines.
    pub(super) fn tail(&self, lines: usize) -> &[&'a str] {
        &self.lines[self.lines.len().saturating_sub(lines)..]
    }

    /// Registers that the refused instruction reads, or that the message names, with what
    /// they held.
    pub(super) fn registers_of_failure(&self, message: &str) -> Vec<(&str, &'a str)> {
        let failed = self.path.last().map_or("", |(_, text)| text);
        // What it loads into does not matter.
        let read = match failed.split_once(" = ") {
            Some((to, from)) if !to.contains('*') => from,
            _ => failed,
        };
        let named = |text: &str| -> Vec<String> {
            text.split(|c: char| !c.is_ascii_alphanumeric())
                .map(str::to_lowercase)
                .filter(|w| is_register(w, 'r') || is_register(w, 'w'))
                .map(|w| w.replace('w', "r"))
                .collect()
        };
        let wanted = [named(read), named(message)].concat();
        let known = self.registers.iter().filter(|(name, _)| {
            // The frame pointer is in every message about the stack.
            wanted.contains(name) && name.as_str() != "r10"
        });
        known.map(|(name, state)| (name.as_str(), *state)).collect()
    }
}

/// `12: (61) r2 = *(u32 *)(r1 +80)         ; R1=ctx() R2_w=pkt_end()`: number, text, state.
fn instruction(line: &str) -> Option<(u32, &str, &str)> {
    let (number, rest) = line.split_once(": (")?;
    let (code, rest) = rest.split_once(") ")?;
    if code.len() != 2 {
        return None;
    }
    // From the first register on: texts of jumps hold no semicolon.
    let (text, state) = rest.split_once(';').unwrap_or((rest, ""));
    Some((number.parse().ok()?, text.trim(), state))
}

/// What a message says of a register: `R0 invalid mem access 'map_value_or_null'`, `R2 type=inv
/// expected=fp`, `…, R1(id=0,off=0,r=0)` of the packet.
fn said_of_register(message: &str) -> Option<(String, &str)> {
    let register = |word: &str| is_register(word, 'R').then(|| word.to_lowercase());
    if let Some((_, rest)) = message.split_once("invalid access to packet") {
        let (_, access) = rest.rsplit_once(", ")?;
        let (name, _) = access.split_once('(')?;
        return Some((register(name)?, access.strip_prefix(name)?));
    }
    let (name, rest) = message.split_once(' ')?;
    let (_, state) = rest
        .split_once("mem access '")
        .or_else(|| rest.split_once("type="))?;
    let end = state.find(['\'', ' ']).unwrap_or(state.len());
    Some((register(name)?, &state[..end]))
}

/// A state on a line of its own, as Linux 5.10 prints it behind a jump: `R1_w=pkt(…) R2=…`.
fn is_state(line: &str) -> bool {
    let first = line.split(' ').next().unwrap_or(line);
    let name = first.split_once('=').map(|(name, _)| name);
    name.is_some_and(|n| is_register(n.split('_').next().unwrap_or(n), 'R'))
}

/// The state at the begin of a path: `from 3 to 5: R0=…`, `0: R1=ctx() R10=fp0`.
fn whole_state(line: &str) -> Option<&str> {
    let (at, state) = line.split_once(':')?;
    let is_place = at.starts_with("from ") || at.parse::<u32>().is_ok();
    (is_place && state.contains('=')).then_some(state)
}

/// Helpers behind which packet pointers are void, by number in `enum bpf_func_id`
/// (`bpf_helper_changes_pkt_data()` in the kernel).
const MOVES_PACKET: [u32; 18] = [
    9, 10, 11, 18, 19, 31, 38, 39, 40, 43, 44, 50, 54, 65, 73, 74, 142, 194,
];

/// Whether an instruction calls a helper that may move the packet: `call bpf_skb_pull_data#39`.
fn moves_packet(text: &str) -> bool {
    let call = text.strip_prefix("call ");
    let number = call.and_then(|c| c.rsplit_once('#')?.1.trim().parse().ok());
    number.is_some_and(|n: u32| MOVES_PACKET.contains(&n))
}

/// The register that an instruction writes: of `w1 &= 15` r1.
fn written(text: &str) -> Option<String> {
    let (to, operator) = text.split_once(' ')?;
    let writes = operator
        .split_once('=')
        .is_some_and(|(sign, _)| sign.len() <= 3 && !sign.contains('*'));
    let known = is_register(to, 'r') || is_register(to, 'w');
    (writes && known).then(|| to.replace('w', "r"))
}

/// A letter and a number.
fn is_register(word: &str, letter: char) -> bool {
    let number = word.strip_prefix(letter);
    number.is_some_and(|n| !n.is_empty() && n.len() <= 2 && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The digits that a text begins with.
fn leading(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit());
    &text[..end.unwrap_or(text.len())]
}

/// Words between spaces that are not inside of parentheses.
fn words(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut depth = 0_usize;
    let mut start = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ' ' if depth == 0 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    found
}
