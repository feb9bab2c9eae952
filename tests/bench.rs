//! `emptcp bench`: the shape of what it prints. What it measures is for people, and
//! for `scripts/bench.sh`.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

fn numbers(what: &Value, names: &[&str]) {
    for name in names {
        assert!(
            what[name].as_f64().is_some_and(|n| n >= 0.0),
            "{name}: {what}"
        );
    }
}

#[test]
fn root_bench_prints_chains_and_modules() {
    let output = Command::new(env!("CARGO_BIN_EXE_emptcp"))
        .args(["bench", "--json", "--rounds", "1", "--repeat", "1000"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();

    let chains = report["chains"].as_array().unwrap();
    for hook in ["xdp", "tc-ingress"] {
        for shape in ["0+1", "1+1", "1+3", "4+4"] {
            let chain = chains
                .iter()
                .find(|c| c["hook"] == hook && c["shape"] == shape)
                .unwrap_or_else(|| panic!("no {shape} at {hook}"));
            numbers(chain, &["ns", "monolithic_ns", "floor_ns", "ratio"]);
            numbers(&chain["uncounted"], &["ns", "monolithic_ns", "ratio"]);
            let steps: usize = shape.split('+').map(|n| n.parse::<usize>().unwrap()).sum();
            assert_eq!(chain["steps"].as_array().unwrap().len(), steps);
        }
    }
    let many = report["many"].as_array().unwrap();
    for hook in ["xdp", "tc-ingress"] {
        let of_64 = many
            .iter()
            .filter(|m| m["hook"] == hook && m["chains"] == 64);
        assert_eq!(of_64.clone().count(), 3, "{hook}");
        for cost in of_64 {
            numbers(cost, &["ns", "entry_ns", "calls"]);
        }
    }
    let modules = report["modules"].as_array().unwrap();
    assert!(!modules.is_empty());
    // Each that needs no table, and does its work on the packet on which it is measured.
    for name in [
        "addr_id",
        "announced",
        "backup",
        // By the socket and the clock of a test run, and with somebody who reads.
        "cgroup",
        "copy_pkt",
        "dport",
        "dst",
        "ip_pair",
        "join_backup",
        "mark",
        "mptcp",
        "pace",
        "police",
        "record",
        "redirect",
        "reject_join",
        "reset",
        "rm_add_addr",
        "rm_option",
        "rm_prio",
        "rm_remove_addr",
        "sequence",
        "set_field",
        "set_recv_win",
        "sport",
        "src",
        "strip_mptcp",
        "subflow",
        "tcp",
        "version",
    ] {
        let mut of_name = modules.iter().filter(|m| m["name"] == name).peekable();
        assert!(of_name.peek().is_some(), "{name}");
        assert!(
            of_name.all(|m| m["works"] == true && m["packet"].is_string()),
            "{name}"
        );
    }
    for module in modules {
        assert!(module["name"].is_string() && module["hook"].is_string());
        numbers(module, &["ns", "floor_ns", "entry_ns"]);
    }
}
