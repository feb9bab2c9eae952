//! What becomes of a connection of Multipath TCP when one option is lost on its way: the cases
//! that the actors of `edits.rs` avoid, forced by `rm_option`, and actors that come into force in
//! the middle of a connection. Each at three hooks, in both families, with checksum offload on and
//! off: twelve connections, each of which gets all its bytes.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::edits::At;
use super::edits::Ends;
use super::edits::FROM_CLIENT;
use super::edits::FROM_SERVER;
use super::edits::Seen;

/// When the server announces its second address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announced {
    Never,
    Before,
    /// In the middle of the connection.
    Meanwhile,
}

/// What is lost.
struct Lost {
    select: Value,
    act: Value,
    interfaces: &'static [&'static str],
    announced: Announced,
    /// The policy comes into force in the middle of the connection, not before.
    late: bool,
}

/// Time for an announcement to come, and a subflow after it.
const SETTLED: Duration = Duration::from_millis(60);

/// Connections to which that happens; the hooks at the same time, each between namespaces of its own.
fn happens(way: [(&str, At); 3], lost: &Lost, check: impl Fn(&Seen) + Sync) {
    let check = &check;
    std::thread::scope(|scope| {
        for place in way {
            scope.spawn(move || happens_at(place, lost, check));
        }
    });
}

fn happens_at((hook, at): (&str, At), lost: &Lost, check: impl Fn(&Seen)) {
    let module = lost.act.as_object().unwrap().keys().next().unwrap();
    let ends = Ends::new(at);
    for (offload, v6) in [("on", false), ("on", true), ("off", false), ("off", true)] {
        ends.offload(offload);
        ends.server().sh("ip mptcp endpoint flush");
        if lost.announced == Announced::Before {
            ends.announce(v6);
        }
        ends.rig.run(&["delete"]).ok();
        let apply = || ends.apply_to(hook, lost.interfaces, &lost.select, &lost.act);
        if !lost.late {
            apply();
        }
        let address = ends.address(v6, 0);
        let act = &lost.act;
        let what = format!("{act} at {hook} of the {at:?}, tx {offload}, {address}");
        let seen = ends.connect(what, v6, module, || {
            if lost.late {
                apply();
            }
            if lost.announced == Announced::Meanwhile {
                ends.announce(v6);
            }
            std::thread::sleep(SETTLED);
        });
        check(&seen);
    }
}

/// Packets with all of these flags of TCP and none of those.
fn flags(all: &[&str], none: &[&str]) -> Value {
    json!({ "all": [{ "mptcp": {} }, { "tcp": { "flags": all, "not_flags": none } }] })
}

fn forced(option: &str) -> Value {
    json!({ "rm_option": { "options": [option], "force": true } })
}

const BOTH: &[&str] = &["p0", "p1"];

/// The client takes the server for one of plain TCP, and its third ACK tells the server.
#[test]
fn root_row_mp_capable_of_the_syn_ack() {
    let lost = Lost {
        select: flags(&["syn", "ack"], &[]),
        act: forced("mp_capable"),
        interfaces: BOTH,
        announced: Announced::Never,
        late: false,
    };
    happens(FROM_SERVER, &lost, |seen| {
        assert!(seen.transfer.fell_back, "{}", seen.what);
        assert_eq!(seen.treated, 1, "{}", seen.what);
        assert_eq!(seen.client("MPCapableFallbackSYNACK"), 1, "{}", seen.what);
        assert_eq!(seen.server("MPCapableFallbackACK"), 1, "{}", seen.what);
    });
}

/// The server falls back at the first packet, the client when it learns that.
#[test]
fn root_row_mp_capable_behind_the_syn() {
    let lost = Lost {
        select: flags(&[], &["syn"]),
        act: forced("mp_capable"),
        interfaces: BOTH,
        announced: Announced::Never,
        late: false,
    };
    happens(FROM_CLIENT, &lost, |seen| {
        assert!(seen.transfer.fell_back, "{}", seen.what);
        assert!(seen.treated > 0, "{}", seen.what);
        assert_eq!(seen.client("MPCapableFallbackSYNACK"), 0, "{}", seen.what);
        assert_eq!(seen.server("MPCapableFallbackACK"), 1, "{}", seen.what);
        assert_eq!(seen.client("MPCapableDataFallback"), 1, "{}", seen.what);
    });
}

/// Alone on the first packet behind the handshake, an ADD_ADDR that is blanked may make the
/// connection plain TCP: when, depends on what comes first. Nothing else may happen.
#[test]
fn root_row_add_addr_blanked_early() {
    let lost = Lost {
        select: json!({ "mptcp": {} }),
        act: forced("add_addr"),
        interfaces: BOTH,
        announced: Announced::Before,
        late: false,
    };
    happens(FROM_SERVER, &lost, |seen| {
        assert!(seen.treated > 0, "{}", seen.what);
        assert_eq!(seen.client("AddAddr"), 0, "{}", seen.what);
        assert_eq!(seen.transfer.subflows, 1, "{}", seen.what);
        let fallbacks = seen.client("MPCapableDataFallback") + seen.server("DssFallback");
        assert_eq!(seen.transfer.fell_back, fallbacks > 0, "{}", seen.what);
    });
}

/// Later in the connection it stays one of Multipath TCP.
#[test]
fn root_row_add_addr_blanked_later() {
    let lost = Lost {
        select: json!({ "mptcp": {} }),
        act: forced("add_addr"),
        interfaces: BOTH,
        announced: Announced::Meanwhile,
        late: false,
    };
    happens(FROM_SERVER, &lost, |seen| {
        seen.keeps(1);
        assert!(seen.treated > 0, "{}", seen.what);
        assert!(seen.server("AddAddrTx") > 0, "{}", seen.what);
        assert_eq!(seen.client("AddAddr"), 0, "{}", seen.what);
    });
}

/// Each way of suppressing it, which comes into force while the connection runs.
#[test]
fn root_row_add_addr_suppressed_while_it_runs() {
    for mode in ["auto", "poison", "drop"] {
        let lost = Lost {
            select: json!({ "mptcp": {} }),
            act: json!({ "rm_add_addr": { "mode": mode } }),
            interfaces: BOTH,
            announced: Announced::Meanwhile,
            late: true,
        };
        happens(FROM_SERVER, &lost, |seen| {
            seen.keeps(1);
            assert!(seen.treated > 0, "{}", seen.what);
            assert!(seen.server("AddAddrTx") > 0, "{}", seen.what);
            assert_eq!(seen.client("AddAddr"), 0, "{}", seen.what);
            assert_eq!(seen.server("MPJoinSynRx"), 0, "{}", seen.what);
        });
    }
}

/// Poisoned also where it establishes the connection.
#[test]
fn root_row_add_addr_poisoned() {
    let lost = Lost {
        select: json!({ "mptcp": {} }),
        act: json!({ "rm_add_addr": { "mode": "poison" } }),
        interfaces: BOTH,
        announced: Announced::Before,
        late: false,
    };
    happens(FROM_SERVER, &lost, |seen| {
        seen.keeps(1);
        assert!(seen.treated > 0, "{}", seen.what);
        assert_eq!(seen.refused, 0, "{}", seen.what);
        assert!(seen.server("AddAddrTx") > 0, "{}", seen.what);
        assert_eq!(seen.client("AddAddr"), 0, "{}", seen.what);
        assert_eq!(seen.server("MPJoinSynRx"), 0, "{}", seen.what);
    });
}

/// A subflow whose DSS are lost is reset, and its data go out again on the other one.
#[test]
fn root_row_dss_of_a_joined_subflow() {
    let lost = Lost {
        select: json!({ "all": [{ "mptcp": {} }, { "tcp": { "not_flags": ["syn", "rst"] } }] }),
        act: forced("dss"),
        interfaces: &["p1"],
        announced: Announced::Before,
        late: false,
    };
    happens(FROM_CLIENT, &lost, |seen| {
        seen.keeps(1);
        assert!(seen.treated > 0, "{}", seen.what);
        assert!(seen.server("MPJoinAckRx") > 0, "{}", seen.what);
        let resets = seen.server("MPRstTx") + seen.client("MPRstTx");
        assert!(resets > 0, "{}", seen.what);
    });
}
