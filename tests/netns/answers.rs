// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! What `reset` says of an answer that does not reach its sender.

use serde_json::json;

use super::edits::At;
use super::edits::Ends;
use super::mptcp::subflows;

/// A copy that cannot be sent is counted; the end that the packet was for has its RST.
#[test]
fn root_edit_reset_counts_copies_that_were_not_sent() {
    let ends = Ends::new(At::Server);
    for v6 in [false, true] {
        ends.rig.run(&["delete"]).ok();
        ends.announce(v6);
        // The copy goes out of the interface, where a chain drops it.
        let chains = json!([
            { "name": "end", "hook": "tc-ingress", "interfaces": ["p1"],
              "select": { "mptcp": {} }, "act": [{ "reset": {} }] },
            { "name": "lose", "hook": "tc-egress", "interfaces": ["p1"],
              "select": { "tcp": { "flags": ["rst"] } }, "act": [{ "drop": {} }] },
        ]);
        let what = format!("reset, {}", ends.address(v6, 0));
        let seen = ends.connect(what, v6, "", || {
            ends.wait_for_second();
            assert_eq!(subflows(&ends.rig.far), 2);
            ends.rig.apply(&chains).ok();
        });
        let what = &seen.what;
        let status = ends.rig.status();
        println!("{what}: {}", status["reasons"]);
        assert!(!seen.transfer.fell_back, "{what}");
        assert_eq!(seen.server("MPRstRx"), 1, "{what}");
        assert_eq!(seen.client("MPRstRx"), 0, "{what}");
        let failed = status["reasons"]["tc-ingress"]["clone"].as_u64();
        assert!(failed.is_some_and(|n| n > 0), "{what}: {status}");
    }
}
