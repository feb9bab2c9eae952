//! What `replay` tells: for each packet, and of all.

use std::collections::BTreeMap;
use std::io;
use std::io::BufWriter;
use std::io::Write as _;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::super::Context;
use super::super::print_json;
use super::super::status::print_table;
use super::super::status::table;
use crate::datapath::Counters;
use crate::datapath::Replay;
use crate::graph::Node;
use crate::module::Hook;
use crate::module::Kind;
use crate::replay::file::Packet;
use crate::replay::trace::Outcome;
use crate::replay::trace::walk;

/// What became of a packet.
#[derive(Debug)]
pub(super) enum Seen {
    /// It went on, or to another interface; edited: its new bytes.
    CameOut {
        redirected: bool,
        edited: Option<Vec<u8>>,
    },
    Dropped,
    /// It did not meet the policy, and why.
    NotRun(String),
}

impl Seen {
    /// The packet to write, if there is one.
    pub(super) fn comes_out<'a>(&'a self, packet: &'a Packet<'_>) -> Option<Packet<'a>> {
        let data = match self {
            Self::Dropped => return None,
            Self::CameOut {
                edited: Some(edited),
                ..
            } => edited.as_slice(),
            _ => &packet.data,
        };
        // What was not captured stays so.
        let missing = packet.length.saturating_sub(packet.data.len() as u32);
        Some(Packet {
            data: data.into(),
            length: data.len() as u32 + missing,
            ..*packet
        })
    }

    fn verdict(&self) -> &'static str {
        match self {
            Self::CameOut {
                redirected: false, ..
            } => "pass",
            Self::CameOut { .. } => "redirect",
            Self::Dropped => "drop",
            Self::NotRun(_) => "not-run",
        }
    }

    fn edited(&self) -> bool {
        matches!(
            self,
            Self::CameOut {
                edited: Some(_),
                ..
            }
        )
    }
}

/// Packets by what became of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Sums {
    packets: u64,
    passed: u64,
    dropped: u64,
    redirected: u64,
    /// Of those that came out.
    edited: u64,
    not_run: u64,
    /// Of which less was captured than there was.
    cut: u64,
}

impl Sums {
    fn add(&mut self, packet: &Packet<'_>, seen: &Seen) {
        self.packets += 1;
        *match seen.verdict() {
            "pass" => &mut self.passed,
            "redirect" => &mut self.redirected,
            "drop" => &mut self.dropped,
            _ => &mut self.not_run,
        } += 1;
        self.edited += u64::from(seen.edited());
        self.cut += u64::from((packet.data.len() as u32) < packet.length);
    }
}

/// A step of the replayed chains.
#[derive(Clone, Debug, Serialize)]
struct Step {
    chain: String,
    step: String,
    module: String,
    #[serde(skip)]
    kind: Kind,
}

impl Step {
    fn new(context: &Context, node: &Node) -> Self {
        let (chain, step) = node.key.split_once('/').unwrap_or(("", &node.key));
        Self {
            chain: chain.to_owned(),
            step: step.to_owned(),
            module: context.registry.modules()[node.module].name.clone(),
            kind: node.kind,
        }
    }
}

/// What a packet met.
#[derive(Debug, Serialize)]
struct Met<'s> {
    #[serde(flatten)]
    step: &'s Step,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What was counted up to a packet.
#[derive(Debug)]
struct Counted {
    steps: Vec<Counters>,
    reasons: BTreeMap<String, u64>,
}

impl Counted {
    fn read(replay: &Replay<'_>) -> Self {
        Self {
            steps: replay.counters(),
            reasons: replay.reasons().into_iter().collect(),
        }
    }

    /// What became of the one packet since then in a step.
    fn outcome(&self, before: &Self, step: usize) -> Option<Outcome> {
        let (now, then) = (self.steps.get(step)?, before.steps.get(step)?);
        if now.evaluated == then.evaluated {
            None
        } else if now.errors > then.errors {
            Some(Outcome::Error)
        } else if now.matched > then.matched {
            Some(Outcome::Match)
        } else {
            Some(Outcome::Miss)
        }
    }

    /// Reasons that the one packet was counted under.
    fn reasons_since(&self, before: &Self) -> Vec<String> {
        let more = |(reason, count): &(&String, &u64)| {
            before.reasons.get(*reason).copied().unwrap_or(0) < **count
        };
        let found = self.reasons.iter().filter(more);
        found.map(|(reason, _)| reason.clone()).collect()
    }
}

/// What is told of a replay.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    hook: Hook,
    steps: Vec<Step>,
    sums: Sums,
    /// Nanoseconds from the first packet to the last.
    lasted: u64,
    explain: Option<Explain>,
}

/// What is told of each packet.
#[derive(Debug)]
struct Explain {
    before: Counted,
    out: BufWriter<io::Stdout>,
}

impl Report {
    /// `explain`: tell of each packet.
    pub(super) fn new(context: &Context, replay: &Replay<'_>, explain: bool) -> Result<Self> {
        let nodes = replay.parts().iter().flat_map(|p| &p.graph.nodes);
        let explain = match explain {
            true => Some(Explain {
                before: Counted::read(replay),
                out: BufWriter::new(io::stdout()),
            }),
            false => None,
        };
        Ok(Self {
            json: context.json,
            hook: replay.hook(),
            steps: nodes.map(|node| Step::new(context, node)).collect(),
            sums: Sums::default(),
            lasted: 0,
            explain,
        })
    }

    /// Takes a packet down. `time`: nanoseconds since the first one.
    pub(super) fn packet(
        &mut self,
        replay: &Replay<'_>,
        packet: &Packet<'_>,
        time: u64,
        seen: &Seen,
    ) -> Result<()> {
        self.sums.add(packet, seen);
        self.lasted = time;
        let Some(explain) = &mut self.explain else {
            return Ok(());
        };
        let now = Counted::read(replay);
        let reasons = now.reasons_since(&explain.before);
        let met = met(&self.steps, replay, &now, &explain.before, &reasons);
        let number = self.sums.packets;
        let seconds = time as f64 / 1e9;
        if self.json {
            let mut line = json!({
                "packet": number, "time": seconds, "verdict": seen.verdict(),
                "edited": seen.edited(), "steps": met, "reasons": reasons,
            });
            if let Seen::NotRun(why) = seen {
                line["why"] = json!(why);
            }
            writeln!(explain.out, "{line}")?;
        } else {
            let words = in_words(&met, &reasons, seen);
            let edited = if seen.edited() { " edited" } else { "" };
            let verdict = format!("{}{edited}", seen.verdict());
            writeln!(
                explain.out,
                "{number:>6} {seconds:>11.6} {verdict:<13} {words}"
            )?;
        }
        explain.before = now;
        Ok(())
    }

    /// Prints what is told of all.
    pub(super) fn finish(mut self, replay: &Replay<'_>) -> Result<()> {
        if let Some(explain) = &mut self.explain {
            explain.out.flush()?;
        }
        let counters = replay.counters();
        let steps = || self.steps.iter().zip(&counters);
        let reasons: BTreeMap<String, u64> = replay.reasons().into_iter().collect();
        let seconds = self.lasted as f64 / 1e9;
        if self.json {
            let steps: Vec<_> = steps()
                .map(|(step, counters)| {
                    json!({ "chain": step.chain, "step": step.step, "module": step.module,
                        "counters": counters })
                })
                .collect();
            let summary = json!({ "hook": self.hook.name(), "seconds": seconds,
                "sums": self.sums, "steps": steps, "reasons": reasons });
            // A line each: what reads the packets reads this too.
            if self.explain.is_some() {
                println!("{summary}");
                return Ok(());
            }
            return print_json(&summary);
        }
        if self.explain.is_some() {
            println!();
        }
        let s = self.sums;
        println!(
            "{}: {} packets in {seconds:.6} s: {} passed, {} dropped, {} redirected; {} edited",
            self.hook, s.packets, s.passed, s.dropped, s.redirected, s.edited
        );
        if s.not_run > 0 {
            println!("not run: {} (they stay as they were)", s.not_run);
        }
        if s.cut > 0 {
            println!(
                "captured in part: {} (they run as if they ended there)",
                s.cut
            );
        }
        for (reason, count) in reasons {
            println!("untreated: {reason} {count}");
        }
        let columns = ["CHAIN", "STEP", "MODULE", "PACKETS", "MATCHED", "ERRORS"];
        let mut all = table(&columns, &[3, 4, 5]);
        for (step, counters) in steps() {
            all.add_row([
                step.chain.clone(),
                step.step.clone(),
                step.module.clone(),
                counters.evaluated.to_string(),
                counters.matched.to_string(),
                counters.errors.to_string(),
            ]);
        }
        print_table(&all);
        Ok(())
    }
}

/// Steps that the one packet met, part by part.
fn met<'s>(
    steps: &'s [Step],
    replay: &Replay<'_>,
    now: &Counted,
    before: &Counted,
    reasons: &[String],
) -> Vec<Met<'s>> {
    let mut all = Vec::new();
    let mut first = 0;
    for part in replay.parts() {
        let way = walk(&part.graph, |node| now.outcome(before, first + node));
        for (node, outcome) in way {
            let step = &steps[first + node];
            let outcome = match (outcome, step.kind) {
                (Outcome::Match, Kind::Selector) => "match",
                (Outcome::Miss, Kind::Selector) => "miss",
                (Outcome::Match, Kind::Actor) => "done",
                (Outcome::Miss, Kind::Actor) => "skip",
                (Outcome::Error, _) => "error",
            };
            // Of several reasons it is not known whose they are.
            let reason = match reasons {
                [reason] if outcome == "error" => Some(reason.clone()),
                _ => None,
            };
            all.push(Met {
                step,
                outcome,
                reason,
            });
        }
        first += part.graph.nodes.len();
    }
    all
}

fn in_words(met: &[Met<'_>], reasons: &[String], seen: &Seen) -> String {
    if let Seen::NotRun(why) = seen {
        return why.clone();
    }
    if met.is_empty() {
        return match reasons {
            [] => "not TCP".to_owned(),
            reasons => reasons.join(", "),
        };
    }
    let step = |m: &Met<'_>| {
        let reason = m.reason.as_ref().map(|r| format!(" ({r})"));
        let (
            Step {
                chain,
                step,
                module,
                ..
            },
            outcome,
        ) = (m.step, m.outcome);
        format!(
            "{chain}/{step} {module} {outcome}{}",
            reason.unwrap_or_default()
        )
    };
    let mut words: Vec<String> = met.iter().map(step).collect();
    if reasons.len() > 1 {
        words.push(format!("({})", reasons.join(", ")));
    }
    words.join("; ")
}
