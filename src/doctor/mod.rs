//! Whether this machine can do what emptcp asks of it: what was read (`facts`,
//! `read`) apart from what it means (`machine`, `network`), so that the judgement
//! needs no machine.

mod facts;
mod machine;
mod network;
mod read;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::interface::Interface;
use crate::module::Hook;
use crate::module::KernelVersion;
use crate::module::Module;
use facts::Facts;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// It could not be looked at.
    Unknown,
    /// emptcp works, but something is slower, missing or left behind.
    Warn,
    /// emptcp does not work.
    Fail,
}

impl Verdict {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Unknown => "unknown",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check.
    pub check: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What is so.
    pub found: String,
    /// What that means for emptcp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub means: Option<String>,
    /// What to do about it: a command, or words in brackets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    fn new(verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            check: "",
            verdict,
            found: found.into(),
            means: None,
            cure: None,
        }
    }

    fn ok(found: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, found)
    }

    fn warn(found: impl Into<String>) -> Self {
        Self::new(Verdict::Warn, found)
    }

    fn fail(found: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, found)
    }

    fn unknown(why: impl Into<String>) -> Self {
        Self::new(Verdict::Unknown, why)
    }

    fn means(mut self, means: impl Into<String>) -> Self {
        self.means = Some(means.into());
        self
    }

    fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }
}

/// What a check finds in the facts.
type Judge = fn(&Facts) -> Vec<Finding>;

/// All checks, in the order in which they are printed.
const CHECKS: [(&str, Judge); 18] = [
    ("kernel", machine::kernel),
    ("modules", machine::modules),
    ("user-namespace", machine::user_namespace),
    ("capabilities", machine::capabilities),
    ("bpf", machine::bpf),
    ("memlock", machine::memlock),
    ("jit", machine::jit),
    ("jit-harden", machine::jit_harden),
    ("btf", machine::btf),
    ("bpffs", machine::bpffs),
    ("policy", machine::policy),
    ("leftovers", machine::leftovers),
    ("mptcp", network::mptcp),
    ("path-manager", network::path_manager),
    ("tc", network::tc),
    ("xdp", network::xdp),
    ("qdisc", network::qdisc),
    ("rp-filter", network::rp_filter),
];

/// Looks at the machine and the current network namespace.
pub fn examine(modules: &[Module]) -> Vec<Finding> {
    judge(&read::facts(modules))
}

/// What keeps packets from leaving by an interface to which a step at this hook leads them past
/// routing, or from coming back there; nothing where all is well or not known.
pub fn leaving_by(interface: &Interface, hook: Hook, kernel: KernelVersion) -> Vec<Finding> {
    let facts = read::leaving(interface, hook);
    let findings = network::leaving_by(&facts, kernel).into_iter();
    findings
        .map(|finding| Finding {
            check: "leaving",
            ..finding
        })
        .collect()
}

/// Whether nothing that emptcp cannot do without is missing.
pub fn is_able(findings: &[Finding]) -> bool {
    findings.iter().all(|f| f.verdict != Verdict::Fail)
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let with_name = |(check, judge): &(&'static str, Judge)| {
        let check = *check;
        let findings = judge(facts).into_iter();
        findings.map(move |finding| Finding { check, ..finding })
    };
    CHECKS.iter().flat_map(with_name).collect()
}
