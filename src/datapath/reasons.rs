//! What has become more of the packets that could not be treated, by reason.

use std::collections::BTreeMap;

use anyhow::Result;
use libbpf_rs::MapCore as _;

use super::counters::reasons;
use super::shared::open_reasons;
use crate::module::Hook;
use crate::pin::Home;

/// Packets of a hook that could not be treated, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Untreated {
    pub(crate) hook: Hook,
    /// Name of the reason (`enum emptcp_reason`).
    pub(crate) reason: String,
    /// Since the look before.
    pub(crate) more: u64,
    /// Since there is a policy.
    pub(crate) total: u64,
}

/// Looks at the counters of reasons again and again.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    /// The map, and what it had: one of another policy begins at 0.
    map: u32,
    before: BTreeMap<(Hook, String), u64>,
}

impl Reasons {
    /// From now on.
    ///
    /// # Errors
    ///
    /// No privilege; the kernel's.
    pub(crate) fn new() -> Result<Self> {
        let mut reasons = Self::default();
        reasons.look()?;
        Ok(reasons)
    }

    /// What has become more since the last look; nothing where there is no policy.
    ///
    /// # Errors
    ///
    /// As for [`Reasons::new`].
    pub(crate) fn look(&mut self) -> Result<Vec<Untreated>> {
        let Some(map) = open_reasons(&Home::current(false)?)? else {
            return Ok(Vec::new());
        };
        let id = map.info()?.info.id;
        if id != self.map {
            self.map = id;
            self.before.clear();
        }
        let mut found = Vec::new();
        for hook in Hook::ALL {
            for (reason, total) in reasons(&map, hook)? {
                let key = (hook, reason.clone());
                let before = self.before.insert(key, total).unwrap_or(0);
                if total > before {
                    found.push(Untreated {
                        hook,
                        reason,
                        more: total - before,
                        total,
                    });
                }
            }
        }
        Ok(found)
    }
}
