// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! TCP through a token bucket: its goodput, with the packets of 64 KiB (GSO) that veth carries.

use serde_json::Value;
use serde_json::json;

use super::rig::Killed;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::wait_for;

const RATE: f64 = 40e6;

/// Bits per second that arrive, from `client` to `server` at the address; marks seen by the client.
fn goodput(client: &Netns, server: &Netns, address: &str, seconds: u32) -> f64 {
    let mut command = server.command("iperf3");
    command.args(["-s", "-1", "-p", "5201"]);
    let _server = Killed(command.stdout(std::process::Stdio::null()).spawn().unwrap());
    wait_for("iperf3", std::time::Duration::from_secs(5), || {
        !server.sh("ss -Htln sport = :5201").is_empty()
    });
    // The burst at the beginning is no part of the rate.
    let line = format!("iperf3 -c {address} -p 5201 -O 1 -t {seconds} -C cubic -J");
    let report: Value = serde_json::from_str(&client.sh(&line)).unwrap();
    report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .unwrap()
}

fn policed(hook: &str, exceed: &str) {
    let rig = Rig::new(1, Tc::Tcx);
    let police = json!({ "rate": RATE, "exceed": exceed });
    rig.apply(
        &json!([{ "name": "police", "hook": hook, "interfaces": ["p0"],
        "act": [{ "police": police }] }]),
    )
    .ok();
    for netns in [&rig.near, &rig.far] {
        netns.sh("sysctl -qw net.ipv4.tcp_ecn=1");
    }
    for address in ["10.77.0", "fd77:0:"] {
        let (client, server, host) = match hook {
            "tc-egress" => (&rig.near, &rig.far, 1),
            _ => (&rig.far, &rig.near, 2),
        };
        let dot = if address.contains(':') { ":" } else { "." };
        let address = format!("{address}{dot}{host}");
        let marked = || super::mptcp::counter(server, "IpExtInCEPkts");
        let before = marked();
        // 4 % of full segments are headers; a sender that lost all pauses for 200 ms.
        // Without delay, one that hears of congestion may wait longer than for its burst.
        let least = if exceed == "drop" { 0.75 } else { 0.4 };
        // A machine with other work may keep a sender from its rate, three times hardly.
        let shares = (0..3).map(|_| {
            let share = goodput(client, server, &address, 4) / RATE;
            println!(
                "{hook}, {exceed}, {address}: {share:.3} of the rate, {} CE",
                marked() - before
            );
            share
        });
        let mut shares = shares.skip_while(|share| *share <= least);
        let share = shares.next().unwrap_or_default();
        assert!(share > least, "{hook}, {address}: {share}");
        // The burst that a pause leaves at the begin is 6 % of the time; twice where it lends.
        let most = if exceed == "drop" { 1.03 } else { 1.1 };
        assert!(share < most, "{hook}, {address}: {share}");
        assert_eq!(
            marked() > before,
            exceed == "ce" && dot == ".",
            "{hook}, {address}"
        );
    }
    let status = rig.status();
    assert_eq!(status["reasons"], json!({}));
    let steps = status["chains"][0]["steps"].as_array().unwrap();
    assert!(steps[0]["matched"].as_u64().unwrap() > 0, "{steps:?}");
}

#[test]
fn root_police_tcp_at_ingress() {
    policed("tc-ingress", "drop");
}

#[test]
fn root_police_tcp_at_egress() {
    policed("tc-egress", "drop");
}

#[test]
fn root_police_tcp_at_xdp() {
    policed("xdp", "drop");
}

#[test]
fn root_police_tcp_by_ecn() {
    policed("tc-ingress", "ce");
}
