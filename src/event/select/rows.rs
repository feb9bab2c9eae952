//! What the modules say of events, held against the rows of their fixtures (`tests/modules`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;

use emptcp_test::Framing;
use emptcp_test::fixtures::Outcome;
use emptcp_test::fixtures::Variant;
use emptcp_test::fixtures::load_dir;
use serde_json::json;

use super::*;
use crate::event::tests::add_addr;
use crate::module::EventFact;
use crate::module::Fact;
use crate::module::Module;
use crate::module::Registry;
use crate::policy::Fragment;
use crate::policy::Policy;

/// Whether all it asks is in every event: the two ends of a packet.
fn asks_for_ends(module: &Module) -> bool {
    let facts = module.params.iter().filter_map(|param| param.event);
    let of_ends = |fact| {
        let ends = [Fact::Src, Fact::Dst, Fact::Sport, Fact::Dport];
        fact == EventFact::Either || ends.iter().any(|end| fact == EventFact::Is(*end))
    };
    module.asks_events() && facts.into_iter().all(of_ends)
}

/// Source and destination of a frame of Ethernet with nothing between IP and TCP.
fn ends(frame: &[u8]) -> Option<[SocketAddr; 2]> {
    let ip = frame.get(14..)?;
    let v4 = |at: usize| Some(IpAddr::from(*ip.get(at..)?.first_chunk::<4>()?));
    let v6 = |at: usize| Some(IpAddr::from(*ip.get(at..)?.first_chunk::<16>()?));
    let (src, dst, tcp) = match (ip.first()?, ip.get(9)?, ip.get(6)?) {
        (0x45, 6, _) => (v4(12)?, v4(16)?, 20),
        (0x60..=0x6f, _, 6) => (v6(8)?, v6(24)?, 40),
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*ip.get(at..)?.first_chunk::<2>()?));
    Some([
        SocketAddr::new(src, port(tcp)?),
        SocketAddr::new(dst, port(tcp + 2)?),
    ])
}

/// Every row is an expression, or refused for what no event tells; and where events tell all of
/// it, it takes an event of the packet where the step in the kernel matches the packet.
#[test]
fn rows_of_fixtures() {
    let registry = Registry::builtin().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modules");
    let mut compared: BTreeMap<String, [u32; 2]> = BTreeMap::new();
    for case in load_dir(&folder).unwrap() {
        let named = |module: &&Module| module.name == case.module;
        let Some(module) = registry.modules().iter().find(named) else {
            continue;
        };
        if !module.asks_events() {
            continue;
        }
        for entry in case.expand() {
            if entry.variant != Variant::Plain || !entry.tables.as_object().unwrap().is_empty() {
                continue;
            }
            let text = Fragment {
                name: "--select".to_owned(),
                bytes: json!({ (entry.module.clone()): entry.params })
                    .to_string()
                    .into_bytes(),
            };
            let selection = match select(&text, &Policy::default(), registry.modules()) {
                Ok(selection) => selection,
                Err(errors) => {
                    let told =
                        |e: &crate::policy::Diagnostic| e.message.starts_with("no event tells");
                    assert!(errors.iter().all(told), "{}: {errors:?}", entry.name);
                    continue;
                }
            };
            let counts = compared.entry(module.name.clone()).or_default();
            let matched = match entry.outcome {
                Outcome::Match => 1,
                Outcome::Miss => 0,
                Outcome::Error(_) => continue,
            };
            let (true, Framing::Ethernet, Some([src, dst])) =
                (asks_for_ends(module), entry.framing, ends(&entry.input))
            else {
                continue;
            };
            let event = Event {
                src,
                dst,
                ..add_addr()
            };
            let taken = selection.takes(&event, &|_| Ok(Seen::default())).unwrap();
            assert_eq!(taken, matched == 1, "{}", entry.name);
            counts[matched] += 1;
        }
    }
    println!("{compared:?}");
    let asked = registry
        .modules()
        .iter()
        .filter(|module| module.asks_events());
    for module in asked {
        let counts = compared.get(&module.name);
        let enough = |counts: &[u32; 2]| !asks_for_ends(module) || counts.iter().all(|n| *n > 3);
        assert!(counts.is_some_and(enough), "{}: {counts:?}", module.name);
    }
}
