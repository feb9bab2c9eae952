//! Whether interfaces have the queueing discipline fq, which alone lets packets leave when they
//! are told to.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use anyhow::Result;

use super::netlink::Qdisc;
use super::netlink::qdiscs;
use crate::graph::Node;
use crate::interface::Interfaces;
use crate::module::Module;
use crate::plan::Attachment;
use crate::plan::Plan;
use crate::plan::paced;
use crate::policy::Diagnostic;

/// What is wrong with a plan whose packets are paced on interfaces that have no fq: one error for
/// each interface, at the first step that wants it.
///
/// # Errors
///
/// The kernel's.
pub fn missing_fq(plan: &Plan, modules: &[Module]) -> Result<Vec<Diagnostic>> {
    let wanted = paced(plan, modules);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let here = qdiscs()?;
    let missing = |(attachment, node): (&Attachment, &Node)| {
        let name = &attachment.interface;
        let found = instead_of_fq(&here, attachment.ifindex)?;
        let module = &modules[node.module].name;
        let message = format!(
            "{module} tells packets when to leave, and fq alone heeds that, but {name} has {found}: {}",
            cure(name, &found)
        );
        Some(Diagnostic::new(&node.at, message))
    };
    Ok(wanted.into_iter().filter_map(missing).collect())
}

/// Interfaces that had fq when a policy was put in force, and have it no more.
pub(super) fn fq_drift(wanted: &BTreeSet<u32>, interfaces: &Interfaces) -> Vec<String> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let here = match qdiscs() {
        Ok(here) => here,
        Err(error) => return vec![format!("{error:#}")],
    };
    let gone = |ifindex: &u32| {
        let name = &interfaces.by_index(*ifindex)?.name;
        let found = instead_of_fq(&here, *ifindex)?;
        let cure = cure(name, &found);
        Some(format!(
            "{name} has {found} instead of fq, nothing is paced there: {cure}"
        ))
    };
    wanted.iter().filter_map(gone).collect()
}

fn cure(interface: &str, found: &str) -> String {
    if found.starts_with("mq ") {
        format!(
            "sysctl -w net.core.default_qdisc=fq, tc qdisc replace dev {interface} root pfifo, \
             tc qdisc replace dev {interface} root mq"
        )
    } else {
        format!("tc qdisc replace dev {interface} root fq")
    }
}

/// The queueing discipline that an interface has where packets wait, if that is not fq; behind mq
/// every queue must have it.
fn instead_of_fq(here: &BTreeMap<u32, Vec<Qdisc>>, ifindex: u32) -> Option<String> {
    let all = here.get(&ifindex).map_or(&[][..], Vec::as_slice);
    let Some(root) = all.iter().find(|q| q.parent == Qdisc::ROOT) else {
        return Some("no queueing discipline".to_owned());
    };
    match root.kind.as_str() {
        "fq" => None,
        "mq" => {
            let mut queues = all
                .iter()
                .filter(|q| q.parent != Qdisc::ROOT && q.parent >> 16 == root.handle >> 16)
                .peekable();
            if queues.peek().is_none() {
                return Some("mq without queues".to_owned());
            }
            let other = queues.find(|q| q.kind != "fq")?;
            Some(format!("mq with {}", other.kind))
        }
        kind => Some(kind.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(qdiscs: &[(&str, u32, u32)]) -> Option<String> {
        let qdisc = |(kind, handle, parent): &(&str, u32, u32)| Qdisc {
            kind: (*kind).to_owned(),
            handle: *handle,
            parent: *parent,
        };
        let here = BTreeMap::from([(7, qdiscs.iter().map(qdisc).collect())]);
        instead_of_fq(&here, 7)
    }

    #[test]
    fn every_queue_must_have_fq() {
        const CLSACT: (&str, u32, u32) = ("clsact", 0xffff_0000, 0xffff_fff1);
        let root = Qdisc::ROOT;
        assert_eq!(found(&[("fq", 0x8001_0000, root), CLSACT]), None);
        assert_eq!(
            found(&[CLSACT, ("fq_codel", 0, root)]),
            Some("fq_codel".to_owned())
        );
        assert_eq!(found(&[CLSACT]), Some("no queueing discipline".to_owned()));
        // As the kernel makes them, and as people do.
        for handle in [0, 1 << 16] {
            let mq = ("mq", handle, root);
            let queue = |kind, n| (kind, 0x8005_0000, handle | n);
            assert_eq!(found(&[mq, queue("fq", 1), queue("fq", 2), CLSACT]), None);
            assert_eq!(
                found(&[mq, queue("fq", 1), queue("pfifo_fast", 2), CLSACT]),
                Some("mq with pfifo_fast".to_owned())
            );
            assert_eq!(found(&[mq, CLSACT]), Some("mq without queues".to_owned()));
        }
        // fq below something that sends by its own clock does not count.
        let htb = ("htb", 1 << 16, root);
        assert_eq!(
            found(&[htb, ("fq", 2 << 16, 1 << 16 | 10)]),
            Some("htb".to_owned())
        );
    }
}
