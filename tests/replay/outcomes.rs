//! What becomes of packets, and what is told of it.

use super::*;

/// Every step of every packet of the captures says what the model says, and the counters are the
/// sums of that; what is not edited comes out as it was.
#[test]
fn root_outcomes_are_those_of_the_model() {
    let selectors = [
        ("mptcp", json!({})),
        ("tcp", json!({ "flags": ["syn"] })),
        ("packet_type", json!({ "any": ["dss"] })),
        ("packet_type", json!({ "any": ["mp_join", "remove_addr"] })),
        ("announced", json!({})),
        ("dport", json!({ "in": ["1-1023"] })),
    ];
    for hook in ["xdp", "tc-ingress", "tc-egress"] {
        let folder = Folder::new();
        let policy = folder.policy(&looking(hook, &selectors));
        let mut matches = 0;
        for (name, count) in captures::FILES {
            let out = folder.0.join(name);
            let capture = tests_pcaps().join(name);
            let more = ["--json", "--explain", "-o", out.to_str().unwrap()];
            let (lines, sums) = replay(&policy, &capture, &more).lines();
            assert_eq!(lines.len(), count, "{name}");
            assert_eq!(packets(&out), packets(&capture), "{name} at {hook}");
            let mut expected = vec![0u64; selectors.len()];
            let mut not_run = 0;
            for (line, packet) in lines.iter().zip(captured(name)) {
                let ran = line["verdict"] != "not-run";
                not_run += u64::from(!ran);
                assert!(
                    ran || packet.bytes.len() > LONGEST,
                    "{}: {line}",
                    packet.name
                );
                for (number, (module, params)) in selectors.iter().enumerate() {
                    let of_model = model::matches(module, params, &packet.facts, 0).unwrap();
                    let expected_outcome = match (packet.facts.tcp.is_some() && ran, of_model) {
                        (false, _) => None,
                        (true, true) => Some("match"),
                        (true, false) => Some("miss"),
                    };
                    expected[number] += u64::from(ran && of_model);
                    let chain = format!("c{number}");
                    let found = outcome(line, &chain, module);
                    assert_eq!(found, expected_outcome, "{} {module}: {line}", packet.name);
                    let acted = outcome(line, &chain, "record").is_some();
                    assert_eq!(acted, ran && of_model, "{} {module}: {line}", packet.name);
                }
            }
            let steps = sums["steps"].as_array().unwrap();
            let counted: Vec<u64> = (0..selectors.len())
                .map(|n| {
                    let chain = format!("c{n}");
                    let of_chain = |s: &&Value| s["chain"] == *chain && s["step"] == "select";
                    let step = steps.iter().find(of_chain).unwrap();
                    step["counters"]["matched"].as_u64().unwrap()
                })
                .collect();
            assert_eq!(counted, expected, "{name} at {hook}");
            assert_eq!(sums["sums"]["not_run"], not_run, "{name}");
            assert_eq!(sums["sums"]["passed"], count as u64 - not_run, "{name}");
            matches += expected.iter().sum::<u64>();
        }
        assert!(matches > 300, "{matches} matches only");
    }
}

/// `--interface` leaves only the chains of one interface.
#[test]
fn root_chains_of_one_interface() {
    let folder = Folder::new();
    let chain = |name: &str, interface: &str| {
        json!({ "name": name, "hook": "tc-egress", "interfaces": [interface],
        "act": [{ "record": {} }] })
    };
    let policy = folder.policy(&json!([chain("a", "eth*"), chain("b", "wlan0")]));
    let capture = tests_pcaps().join("mptcp-fclose.pcap");
    for (more, expected) in [
        (&["--json"][..], &["a", "b"][..]),
        (&["--json", "--interface", "eth7"], &["a"]),
        (&["--json", "--interface", "wlan0"], &["b"]),
    ] {
        let sums = replay(&policy, &capture, more).json();
        let steps = sums["steps"].as_array().unwrap();
        let chains: Vec<&str> = steps.iter().map(|s| s["chain"].as_str().unwrap()).collect();
        assert_eq!(chains, expected);
    }
    replay(&policy, &capture, &["--interface", "lo"]).refused(&["no enabled chain", "\"lo\""]);
}

/// Times of modules are those of the packets: the result is known, and the same each time.
#[test]
fn root_the_clock_is_that_of_the_capture() {
    let folder = Folder::new();
    let modules = folder.0.join("modules");
    compile("tests/modules-src", &modules, &["gap.xdp.o", "gap.tc.o"]);
    let frame = captured("mptcp-v0.pcap").remove(0).bytes;
    // Microseconds; one of them goes back.
    let times = [
        5, 10, 2_010, 2_009, 4_010, 9_999_999, 10_001_998, 10_003_999,
    ];
    let expected = [false, false, true, false, true, true, false, true];
    let capture = pcap(
        ETHERNET,
        times
            .iter()
            .map(|t| (t + 1_700_000_000_000_000, &frame[..])),
    );
    let capture = folder.write("times.pcap", capture);
    for hook in ["xdp", "tc-ingress"] {
        for boot in [false, true] {
            let policy = folder.policy(
                &json!([{ "name": "late", "hook": hook, "interfaces": ["eth0"],
                "select": { "gap": { "longer": "2ms", "boot": boot } }, "act": [{ "drop": {} }] }]),
            );
            for _ in 0..2 {
                let more = [
                    "--json",
                    "--explain",
                    "--modules",
                    modules.to_str().unwrap(),
                ];
                let (lines, _) = replay(&policy, &capture, &more).lines();
                let late = lines.iter().map(|l| l["verdict"] == "drop");
                assert_eq!(late.collect::<Vec<_>>(), expected, "{hook} {boot}");
            }
        }
    }
}

/// A limit on the rate counts by the times of the packets, not by how fast they are replayed.
#[test]
fn root_a_policer_goes_by_the_capture() {
    let folder = Folder::new();
    let frame = captured("mptcp-v0.pcap").remove(0).bytes;
    let chain = json!([{ "name": "limit", "hook": "tc-ingress", "interfaces": ["eth0"],
        "act": [{ "police": { "rate": "1Mbit", "burst": 1000 } }] }]);
    let policy = folder.policy(&chain);
    // A frame of 86 bytes is 0.7 ms at this rate.
    for (microseconds, dropped) in [(2_000, 0..1), (100, 800..900)] {
        let times = (0..1_000).map(|n| (n * microseconds, &frame[..]));
        let capture = folder.write("rate.pcap", pcap(ETHERNET, times));
        let explain = || replay(&policy, &capture, &["--json", "--explain"]).lines();
        let (lines, sums) = explain();
        let found = sums["sums"]["dropped"].as_u64().unwrap();
        assert!(
            dropped.contains(&found),
            "{found} of 1000 at {microseconds} us"
        );
        assert_eq!(explain(), (lines, sums));
    }
}

/// Packets that cannot be parsed, that the kernel refuses, and that end in their link header.
#[test]
fn root_undecidable_packets() {
    let folder = Folder::new();
    let chains = looking("tc-egress", &[("mptcp", json!({}))]);
    let frame = captured("mptcp-v0.pcap").remove(0).bytes;
    let policy = folder.policy(&chains);
    let capture = pcap(
        ETHERNET,
        [(0, &frame[..44]), (1, &frame[..9]), (2, &frame[..])],
    );
    let capture = folder.write("short.pcap", capture);
    let out = folder.0.join("out.pcap");
    let more = ["--json", "--explain", "-o", out.to_str().unwrap()];
    let (lines, sums) = replay(&policy, &capture, &more).lines();
    assert_eq!(lines[0]["reasons"], json!(["truncated"]), "{}", lines[0]);
    assert_eq!(lines[0]["steps"], json!([]));
    assert_eq!(lines[1]["verdict"], "not-run");
    assert!(
        lines[1]["why"].as_str().unwrap().contains("9 bytes"),
        "{}",
        lines[1]
    );
    assert_eq!(outcome(&lines[2], "c0", "mptcp"), Some("match"));
    assert_eq!(sums["reasons"], json!({ "truncated": 1 }));
    assert_eq!(packets(&out), packets(&capture));

    let cooked = folder.write("cooked.pcap", pcap(SLL, [(0, &frame[..15])]));
    let text = replay(&policy, &cooked, &["--explain"]).ok().out;
    assert!(text.contains("ends within its link-layer header"), "{text}");
    assert!(text.contains("not run: 1 (they"), "{text}");

    // A chain that wants it dropped.
    let mut chains = chains;
    chains[0]["on_error"] = json!("drop");
    let policy = folder.policy(&chains);
    let (lines, _) = replay(&policy, &capture, &["--json", "--explain"]).lines();
    assert_eq!(lines[0]["verdict"], "drop");
    assert_eq!(lines[2]["verdict"], "pass");
}

/// What a step fails on stands beside it.
#[test]
fn root_errors_are_told_with_their_reasons() {
    let folder = Folder::new();
    let modules = folder.0.join("modules");
    compile("tests/modules-src", &modules, &["fails.tc.o"]);
    let policy = folder.policy(&json!([
        { "name": "bad", "hook": "tc-ingress", "interfaces": ["eth0"],
          "act": [{ "fails": {} }, { "record": {} }] },
        { "name": "next", "hook": "tc-ingress", "interfaces": ["eth0"], "act": [{ "drop": {} }] }
    ]));
    let capture = tests_pcaps().join("mptcp-aa-v1.pcap");
    let modules = modules.to_str().unwrap();
    let more = ["--json", "--explain", "--modules", modules];
    let (lines, sums) = replay(&policy, &capture, &more).lines();
    let (mut syns, mut others) = (0, 0);
    for (line, packet) in lines.iter().zip(captured("mptcp-aa-v1.pcap")) {
        let Some(tcp) = &packet.facts.tcp else {
            assert_eq!(
                (&line["steps"], &line["verdict"]),
                (&json!([]), &json!("pass"))
            );
            continue;
        };
        let reason = if tcp.flags & 2 != 0 {
            "map_full"
        } else {
            "write"
        };
        *(if reason == "write" {
            &mut others
        } else {
            &mut syns
        }) += 1;
        let steps = json!([
            { "chain": "bad", "step": "act[0]", "module": "fails", "outcome": "error", "reason": reason },
            { "chain": "next", "step": "act[0]", "module": "drop", "outcome": "done" }
        ]);
        assert_eq!(line["steps"], steps, "{}", packet.name);
        assert_eq!(line["reasons"], json!([reason]), "{}", packet.name);
        assert_eq!(line["verdict"], "drop", "{}", packet.name);
    }
    assert!(syns > 0 && others > 0);
    assert_eq!(
        sums["reasons"],
        json!({ "map_full": syns, "write": others })
    );
    let text = replay(&policy, &capture, &["--explain", "--modules", modules])
        .ok()
        .out;
    assert!(
        text.contains("bad/act[0] fails error (map_full); next/act[0] drop done"),
        "{text}"
    );
    assert!(
        text.contains(&format!("untreated: write {others}\n")),
        "{text}"
    );
    assert!(text.contains("not TCP"), "{text}");
}

/// 100,000 packets; the bound is for a busy machine and a debug build.
#[test]
fn root_many_packets() {
    let folder = Folder::new();
    let policy = folder.policy(&looking(
        "tc-ingress",
        &[("mptcp", json!({})), ("announced", json!({}))],
    ));
    let frames: Vec<Vec<u8>> = captured("mptcp-v0.pcap")
        .into_iter()
        .map(|p| p.bytes)
        .collect();
    let frames = frames.iter().cycle().take(100_000).zip(0u64..);
    let capture = folder.write(
        "many.pcap",
        pcap(ETHERNET, frames.map(|(f, n)| (n, &f[..]))),
    );
    let out = folder.0.join("out.pcap");
    let begun = Instant::now();
    let sums = replay(&policy, &capture, &["--json", "-o", out.to_str().unwrap()]).json();
    let took = begun.elapsed();
    println!("100,000 packets in {took:?}");
    assert_eq!(sums["sums"]["passed"], 100_000);
    assert_eq!(
        fs::read(&out).unwrap().len(),
        fs::read(&capture).unwrap().len()
    );
    assert!(took < Duration::from_secs(20), "{took:?}");
}
