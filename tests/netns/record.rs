//! What `record` says of real connections, beside what the kernel says of its own.

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::rig::Rig;
use super::rig::Tc;

const PORT: u16 = 5002;
const SIZE: usize = 8 << 20;

/// A number that `ss` prints behind a name.
fn of_ss(line: &str, name: &str) -> Option<f64> {
    let word = line.split_whitespace().find_map(|w| w.strip_prefix(name))?;
    word.split('/').next()?.parse().ok()
}

/// The entries of a map, by their port of the destination.
fn records(rig: &Rig) -> Vec<Value> {
    let state = rig.run(&["--json", "status", "--state"]).ok().json();
    let views = state["state"].as_array().unwrap();
    let view = views.iter().find(|v| v["map"] == "records").unwrap();
    view["entries"].as_array().unwrap().clone()
}

/// Sends over lossy links; what `ss` says of the sender.
fn transfer(rig: &Rig) -> String {
    let lose = json!({ "version": 1, "chains": [{ "name": "lose", "hook": "tc-ingress", "interfaces": ["p0"],
        "select": { "all": [{ "dport": { "in": [PORT] } }, { "sample": { "ratio": "2%" } }] }, "act": [{ "drop": {} }] }] });
    let path = rig.folder.write("lose.json", lose.to_string());
    let mut apply = rig.emptcp_in(&rig.far, &["apply", path.to_str().unwrap()]);
    assert!(apply.status().unwrap().success());
    let listener = rig
        .far
        .within(|| TcpListener::bind(("10.77.0.1", PORT)).unwrap());
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut got = vec![0; SIZE];
        peer.read_exact(&mut got).unwrap();
        peer.write_all(b"!").unwrap();
        let _ = peer.read(&mut [0]);
    });
    let mut stream = rig
        .near
        .within(|| TcpStream::connect(("10.77.0.1", PORT)).unwrap());
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(&vec![7; SIZE]).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let line = rig
        .near
        .sh(&format!("ss -Htino state established dport = :{PORT}"));
    drop(stream);
    server.join().unwrap();
    line
}

#[test]
fn root_as_much_sent_again_as_the_sender_says() {
    for offload in ["on", "off"] {
        let rig = Rig::new(1, Tc::Tcx);
        rig.near
            .sh(&format!("ethtool -K p0 tso {offload} gso {offload}"));
        rig.apply(&json!([{ "name": "rec", "hook": ["tc-ingress", "tc-egress"], "interfaces": ["p0"], "act": [{ "record": { "rtt": true } }] }]))
            .ok();
        let ss = transfer(&rig);
        let entries = records(&rig);
        let [there] = &entries
            .iter()
            .filter(|e| e["dport"] == PORT)
            .collect::<Vec<_>>()[..]
        else {
            panic!("{entries:?}");
        };
        let [back] = &entries
            .iter()
            .filter(|e| e["sport"] == PORT)
            .collect::<Vec<_>>()[..]
        else {
            panic!("{entries:?}");
        };
        println!("offload {offload}: {there}\n{back}\n{ss}");
        let again = there["retransmitted"].as_u64().unwrap();
        assert!(again > 10_000, "{there}");
        assert_eq!(Some(again as f64), of_ss(&ss, "bytes_retrans:"), "{ss}");
        assert_eq!(back["retransmitted"], 0);
        // All that was sent, with 66 bytes of headers in each packet.
        let [packets, bytes] = ["packets", "bytes"].map(|f| there[f].as_u64().unwrap());
        let payload = bytes - packets * 66;
        assert!(
            (SIZE as u64 + again..SIZE as u64 + again + 100).contains(&payload),
            "{there}"
        );
        // The stack is not in it, so it is no more than the sender's, but of fewer packets.
        let [srtt, least] = ["srtt_us", "min_rtt_us"].map(|f| there[f].as_u64().unwrap());
        assert!(
            least > 0 && least <= srtt && srtt < 100_000,
            "{there}, {ss}"
        );
    }
}

#[test]
fn root_a_round_trip_needs_both_directions() {
    let rig = Rig::new(1, Tc::Tcx);
    rig.apply(&json!([{ "name": "rec", "hook": "tc-egress", "interfaces": ["p0"], "act": [{ "record": { "rtt": true } }] }]))
        .ok();
    transfer(&rig);
    let entries = records(&rig);
    assert_eq!(entries.len(), 1);
    assert_eq!(
        (&entries[0]["srtt_us"], &entries[0]["min_rtt_us"]),
        (&json!(null), &json!(null))
    );
    let text = rig.run(&["status", "--state"]).ok().out;
    assert!(
        text.lines()
            .any(|l| l.trim_end().ends_with(" -           -")),
        "{text}"
    );
}
