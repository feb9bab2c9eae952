//! Which events an expression of selectors takes: that of a policy, asked of what an event tells
//! instead of a packet. Which selectors can be asked, and of what, stands at their parameters
//! (`EMPTCP_EVENT_FACT`).

mod compile;
mod facts;
#[cfg(test)]
mod property;
mod question;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod tests;

pub(crate) use self::compile::select;
pub(crate) use self::facts::Seen;

use anyhow::Result;

use self::facts::EventFacts;
use self::facts::Facts;
use self::question::Question;
use super::Event;

/// Whether something is so; in this order, so that `all` is the least of its parts and `any` the
/// greatest (Kleene's logic).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Truth {
    No,
    /// What would tell is not known.
    Unknown,
    Yes,
}

impl Truth {
    fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
            Self::Yes => Self::No,
        }
    }

    /// The least; what follows one that is not so is not asked.
    fn all(parts: impl IntoIterator<Item = Result<Self>>) -> Result<Self> {
        let mut least = Self::Yes;
        for part in parts {
            least = least.min(part?);
            if least == Self::No {
                break;
            }
        }
        Ok(least)
    }

    /// The greatest; what follows one that is so is not asked.
    fn any(parts: impl IntoIterator<Item = Result<Self>>) -> Result<Self> {
        let mut greatest = Self::No;
        for part in parts {
            greatest = greatest.max(part?);
            if greatest == Self::Yes {
                break;
            }
        }
        Ok(greatest)
    }
}

/// An expression over tests.
#[derive(Clone, Debug)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Question(Question),
}

impl Node {
    fn truth(&self, facts: &mut dyn Facts) -> Result<Truth> {
        match self {
            Self::All(parts) => Truth::all(parts.iter().map(|part| part.truth(facts))),
            Self::Any(parts) => Truth::any(parts.iter().map(|part| part.truth(facts))),
            Self::Not(part) => part.truth(facts).map(Truth::not),
            Self::Question(question) => question.truth(facts),
        }
    }
}

/// An expression that events are asked.
#[derive(Clone, Debug)]
pub(crate) struct Selection(Node);

impl Selection {
    /// Whether it takes an event for certain. `look`: what the tracker has of the event's subflow
    /// and connection; asked for once at most, where the event itself does not tell.
    ///
    /// # Errors
    ///
    /// Those of `look`.
    pub(crate) fn takes(
        &self,
        event: &Event,
        look: &dyn Fn(&Event) -> Result<Seen>,
    ) -> Result<bool> {
        let mut facts = EventFacts::new(event, look);
        Ok(self.0.truth(&mut facts)? == Truth::Yes)
    }

    /// Whether it takes what tells nothing, such as a change of a link.
    pub(crate) fn takes_anything(&self) -> bool {
        let truth = self.0.truth(&mut facts::Nothing);
        truth.is_ok_and(|truth| truth == Truth::Yes)
    }
}
