//! Modules from outside on real packets, and those that the verifier refuses,
//! through the command line.

use std::collections::BTreeMap;
use std::fs;

use emptcp_test::hosts::Family;
use emptcp_test::outside::compile;
use emptcp_test::outside::root;
use serde_json::Value;
use serde_json::json;

use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::traffic::ack;
use super::traffic::frame;
use super::traffic::send;

/// The example as its README says: built by its Makefile, applied, counts packets; applied again
/// it changes nothing.
#[test]
fn root_the_example_counts_packets() {
    for tc in Tc::ALL {
        let mut rig = Rig::new(1, tc);
        let modules = rig.folder.0.join("modules");
        compile("examples/module", &modules, &["ttl.xdp.o", "ttl.tc.o"]);
        let text = fs::read_to_string(root().join("examples/module/policy.json")).unwrap();
        let policy = rig.folder.write("policy.json", text.replace("eth0", "p0"));
        let policy = policy.to_str().unwrap();
        rig.run(&["check", policy]).fails(&["ttl"]);
        rig.modules = Some(modules);
        rig.run(&["check", policy]).ok();
        rig.run(&["apply", policy]).ok();
        for family in Family::ALL {
            send(&rig.far, "p0", &ack(family, 80));
            for ttl in [31, 32, 33] {
                send(
                    &rig.far,
                    "p0",
                    &frame(family, json!({ "ip": { "ttl": ttl } })),
                );
            }
        }
        // Two of each family, at XDP and at tc.
        assert_eq!(chain_packets(&rig.status(), "near-its-end"), Some(8));
        let again = rig.run(&["--json", "apply", policy]).ok().json();
        assert_eq!(again, json!({ "changed": false }));
        // Without its folder the policy stays as it is: seen, and taken away.
        rig.modules = None;
        rig.run(&["apply", policy]).fails(&["ttl"]);
        assert_eq!(chain_packets(&rig.status(), "near-its-end"), Some(8));
        rig.run(&["--json", "show"]).ok();
        rig.run(&["delete"]).ok();
        rig.assert_nothing_left();
    }
}

/// A module that the tree does not know, with a parameter of every type (what it sees of them:
/// tests/types.rs), on the command line and on real packets.
#[test]
fn root_every_type_from_outside() {
    let mut rig = Rig::new(1, Tc::Tcx);
    let modules = rig.folder.0.join("modules");
    compile(
        "tests/modules-src",
        &modules,
        &["every_type.xdp.o", "every_type.tc.o"],
    );
    rig.modules = Some(modules);
    let params = json!({
        "bytes": "64KiB", "rate": "1.5Gbit", "time": "100ms", "ratio": "25%",
        "addr": "2001:db8::1:2", "prefix": "10.1.0.0/16", "port": 65535, "ports": "8000-8010",
        "token": "0x1a2b3c4d", "interface": "p0", "text": "fifteen letters", "yes": true,
        "u8": 255, "u16": "0xfffe", "u32": 4_294_967_295_u64, "u64": "0xfedcba9876543210",
        "s8": -100, "s16": -32768, "s32": -2_147_483_648_i64, "s64": -2,
        "colour": "dark_green", "colours": ["blue", "red"],
        "times": ["1s", "1ms", "2s"], "palette": ["blue", "dark_green"], "numbers": [1, 2, 3, 4, 5],
        "prefixes": ["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32"], "addrs": ["10.0.0.9"],
        "ranges": [22, "8000-8010", "79-81"], "single_ports": [443, 22], "tokens": ["0x10", 7, 9],
    });
    let listed = rig.run(&["--json", "modules", "every_type"]).ok().json();
    // All but the cgroups, which are for tc egress.
    let described = listed[0]["params"].as_array().unwrap().iter();
    let described = described.filter(|p| !p["name"].as_str().unwrap().contains("cgroup"));
    assert_eq!(described.count(), params.as_object().unwrap().len());
    let chains = json!([{ "name": "c", "hook": ["xdp", "tc-ingress", "tc-egress"],
        "interfaces": ["p0"], "act": [{ "every_type": params }] }]);
    rig.apply(&chains).ok();
    for family in Family::ALL {
        send(&rig.far, "p0", &ack(family, 80));
        send(&rig.near, "p0", &ack(family, 80));
    }
    let status = rig.status();
    assert_eq!(chain_packets(&status, "c"), Some(6));
    for chain in status["chains"].as_array().unwrap() {
        let step = &chain["steps"][0];
        assert_eq!(
            (&step["matched"], &step["errors"]),
            (&json!(2), &json!(0)),
            "{chain}"
        );
    }
    // What `show` prints of them is the same policy.
    let shown = rig.run(&["--json", "show"]).ok();
    let path = rig.folder.write("shown.json", &shown.out);
    let again = rig.run(&["--json", "apply", path.to_str().unwrap()]).ok();
    assert_eq!(again.json(), json!({ "changed": false }));
}

/// Entries of the map of classify and count_class: by class, how often each of them counted.
fn classes(rig: &Rig) -> BTreeMap<u64, [u64; 2]> {
    let state = rig.run(&["--json", "status", "--state"]).ok().json();
    let maps = state["state"].as_array().unwrap();
    let found: Vec<&Value> = maps.iter().filter(|m| m["map"] == "classes").collect();
    let mut classes: BTreeMap<u64, [u64; 2]> = BTreeMap::new();
    for entry in found[0]["entries"].as_array().unwrap() {
        let number = |name: &str| entry[name].as_u64().unwrap();
        let class = classes.entry(number("class")).or_default();
        class[number("who") as usize] = number("value");
    }
    classes
}

/// A selector leaves a 16-bit value, an actor of somebody else reads it; both count in one map.
#[test]
fn root_two_modules_share_a_value_and_a_map() {
    let targets = [
        "classify.xdp.o",
        "classify.tc.o",
        "count_class.xdp.o",
        "count_class.tc.o",
    ];
    for hook in ["xdp", "tc-ingress"] {
        let mut rig = Rig::new(1, Tc::Tcx);
        let modules = rig.folder.0.join("modules");
        fs::create_dir(&modules).unwrap();
        let header = root().join("tests/modules-src/classes.h");
        fs::copy(header, modules.join("classes.h")).unwrap();
        compile("tests/modules-src", &modules, &targets);
        compile(
            "tests/modules-src",
            &modules,
            &["other_classes.tc.o", "other_classes.xdp.o"],
        );
        rig.modules = Some(modules);
        let chain = |modulus: u16, act: Value| {
            json!([{ "name": "c", "hook": hook, "interfaces": ["p0"],
                "select": { "all": [{ "tcp": {} }, { "classify": { "modulus": modulus } }] },
                "act": [act] }])
        };
        rig.apply(&chain(1000, json!({ "count_class": {} }))).ok();
        for family in Family::ALL {
            for dport in [1007, 2007, 40_007, 40_999] {
                send(&rig.far, "p0", &ack(family, dport));
            }
        }
        let wanted = BTreeMap::from([(7, [6, 6]), (999, [2, 2])]);
        assert_eq!(classes(&rig), wanted, "{hook}");
        // The map outlives a change of the steps that share it.
        rig.apply(&chain(100, json!({ "count_class": {} }))).ok();
        send(&rig.far, "p0", &ack(Family::Ip4, 1007));
        assert_eq!(classes(&rig)[&7], [7, 7], "{hook}");
        // One that declares it otherwise is refused, and takes nothing away.
        rig.apply(&chain(100, json!({ "other_classes": {} })))
            .fails(&[
                "share the map classes but declare it differently",
                "policy.json:1:",
            ]);
        assert_eq!(classes(&rig)[&7], [7, 7], "{hook}");
        rig.run(&["delete"]).ok();
        rig.assert_nothing_left();
    }
}

/// Each module of `tests/bad` is refused with the cause and one of the lines that it expects, and
/// the policy in force stays.
#[test]
fn root_the_verifier_is_explained() {
    let mut rig = Rig::new(1, Tc::Tcx);
    let good = json!([{ "name": "good", "hook": "tc-ingress", "interfaces": ["p0"],
        "act": [{ "record": {} }] }]);
    rig.apply(&good).ok();
    let now = |rig: &Rig| {
        let shown = rig.run(&["--json", "show"]).ok().json();
        let status = rig.status();
        assert_eq!(status["drift"], json!([]));
        (shown, status["attachments"].clone(), rig.bpffs.tree())
    };
    let before = now(&rig);

    let mut names: Vec<String> = fs::read_dir(root().join("tests/bad"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some(name.strip_suffix(".bpf.c")?.to_owned()))
        .collect();
    names.sort();
    assert!(names.len() >= 18);
    let modules = rig.folder.0.join("modules");
    let targets: Vec<String> = names.iter().map(|name| format!("{name}.tc.o")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    compile("tests/bad", &modules, &targets);
    rig.modules = Some(modules);

    let mut wrong = Vec::new();
    for name in names {
        let source = root().join(format!("tests/bad/{name}.bpf.c"));
        let text = fs::read_to_string(source).unwrap();
        let marked = text
            .lines()
            .zip(1..)
            .filter(|(l, _)| l.contains("expect: "));
        let marked: Vec<(&str, i32)> = marked.collect();
        let cause = marked[0].0.split("expect: ").nth(1).unwrap();
        let cause = cause.split(' ').next().unwrap();
        let step = json!({ name.as_str(): {} });
        let mut chain = json!({ "name": "bad", "hook": "tc-ingress", "interfaces": ["p0"] });
        if text.contains("EMPTCP_ACTOR") {
            chain["act"] = json!([step]);
        } else {
            chain["select"] = step;
            chain["act"] = json!([{ "accept": {} }]);
        }
        let ran = rig.apply(&json!([chain])).fails(&[]);
        let is_told = |(line, number): &(&str, i32)| {
            let place = format!("/{name}.bpf.c:{number}\n  {number} | {}\n", line.trim());
            ran.err.contains("\n  --> /") && ran.err.contains(&place)
        };
        let head = format!(": the kernel refuses the program [{cause}]\n");
        let parts = ["\n  verifier: ", "\n  cause: ", "\n  cure: "];
        let whole = parts.iter().all(|part| ran.err.contains(part));
        if !ran.err.contains(&head) || !marked.iter().any(is_told) || !whole {
            wrong.push(format!("{name}: [{cause}] {marked:?}\n{}", ran.err));
        }
        assert_eq!(now(&rig), before, "{name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The whole log, where it is asked for.
    let chain = json!([{ "name": "bad", "hook": "tc-ingress", "interfaces": ["p0"],
        "act": [{ "map_value_null": {} }] }]);
    let quiet = rig
        .apply(&chain)
        .fails(&["r0 is a value of the map values (8 bytes), or NULL"]);
    assert!(!quiet.err.contains("processed "), "{}", quiet.err);
    let path = rig.policy("policy.json", &chain);
    rig.run(&["-v", "apply", &path])
        .fails(&["processed ", "R10=fp0", "  cause: "]);
    assert_eq!(now(&rig), before);
}
