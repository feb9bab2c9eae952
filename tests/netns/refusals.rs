//! What is refused says why, and leaves the policy in force as it was.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use serde_json::json;

use super::rig::BpfFs;
use super::rig::Ran;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::TempDir;

fn chain(fields: Value) -> Value {
    let mut chain = json!({ "name": "c", "hook": "tc-ingress", "interfaces": ["p0"],
        "act": [{ "record": {} }] });
    chain
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    chain
}

/// A rig with a policy in force, and what must stay the same.
struct InForce {
    rig: Rig,
    before: (Value, Value, std::collections::BTreeSet<String>),
}

impl InForce {
    fn new() -> Self {
        let rig = Rig::new(1, Tc::Tcx);
        rig.apply(&json!([chain(json!({}))])).ok();
        let before = Self::now(&rig);
        Self { rig, before }
    }

    fn now(rig: &Rig) -> (Value, Value, std::collections::BTreeSet<String>) {
        let shown = rig.run(&["--json", "show"]).ok().json();
        let status = rig.status();
        assert_eq!(status["drift"], json!([]));
        (shown, status["attachments"].clone(), rig.bpffs.tree())
    }

    #[track_caller]
    fn assert_as_before(&self) {
        assert_eq!(Self::now(&self.rig), self.before);
    }
}

#[test]
fn root_refusals_keep_the_policy() {
    let in_force = InForce::new();
    let rig = &in_force.rig;
    let texts: [(&str, &[&str]); 5] = [
        ("{ \"version\": 1,\n  \"chains\": [ }", &["bad.json:2:"]),
        (
            "{ \"version\": 1, \"chians\": [] }",
            &["bad.json:1:17", "chains"],
        ),
        (
            "{ \"version\": 2, \"chains\": [] }",
            &["bad.json:1:14", "version"],
        ),
        (
            "{ \"version\": 1, \"chains\": [], \"chains\": [] }",
            &["bad.json:1:31", "chains"],
        ),
        ("", &["bad.json:1:1"]),
    ];
    for (text, words) in texts {
        let path = rig.folder.write("bad.json", text);
        rig.run(&["apply", path.to_str().unwrap()]).fails(words);
        in_force.assert_as_before();
    }
    let missing = rig.folder.0.join("missing.json");
    rig.run(&["apply", missing.to_str().unwrap()])
        .fails(&["missing.json", "No such file"]);

    // Steps are joined, up to 12 in one program: so many need more than 33 of these.
    let many: Vec<Value> = (0..500)
        .map(|n| json!({ "dport": { "in": [n.to_string()] } }))
        .collect();
    let chains: [(Value, &[&str]); 7] = [
        (
            json!({ "interfaces": ["p9"] }),
            &["no interface \"p9\"", "\"p0\""],
        ),
        (
            json!({ "select": { "dprot": { "in": ["80"] } } }),
            &["dprot", "\"dport\""],
        ),
        (
            json!({ "act": [{ "recrod": {} }] }),
            &["recrod", "\"record\""],
        ),
        (
            json!({ "hook": "xdp", "act": [{ "set_recv_win": { "bytes": "64KiB", "wscale": 7 } }] }),
            &["xdp of p0", "tc-ingress", "trust_checksums"],
        ),
        (
            json!({ "hook": "xdp", "act": [{ "reject_join": { "with": "rst" } }] }),
            &[
                "reject_join edits",
                "xdp of p0",
                "tc-ingress",
                "trust_checksums",
            ],
        ),
        (
            json!({ "select": { "all": many } }),
            &["33", "tc-ingress", "dport → dport"],
        ),
        (
            json!({ "hook": "xdp", "act": [{ "set_mark": { "value": 1 } }] }),
            &["set_mark", "tc-ingress"],
        ),
    ];
    for (fields, words) in chains {
        rig.apply(&json!([chain(fields.clone())])).fails(words);
        in_force.assert_as_before();
        // As JSON: on standard output, with the place.
        let path = rig.policy("bad.json", &json!([chain(fields)]));
        for verb in ["apply", "check"] {
            let ran = rig.run(&["--json", verb, &path]);
            assert_eq!(ran.code, Some(1));
            let answer = ran.json();
            assert_eq!(answer["valid"], false);
            for field in ["file", "line", "column"] {
                assert!(!answer["errors"][0][field].is_null(), "{field}: {answer}");
            }
        }
    }
    in_force.assert_as_before();
    // What it drops it does not edit.
    let drops = json!({ "hook": "xdp", "act": [{ "reject_join": {} }] });
    let path = rig.policy("drops.json", &json!([chain(drops)]));
    rig.run(&["check", &path]).ok();
    // An interface that may be absent is no error.
    let optional = json!({ "interfaces": ["p0", { "name": "p9", "optional": true }] });
    rig.apply(&json!([chain(optional)])).ok();
}

#[test]
fn root_exit_codes() {
    let in_force = InForce::new();
    let rig = &in_force.rig;
    let same = rig.policy("same.json", &json!([chain(json!({}))]));
    let other = rig.policy(
        "other.json",
        &json!([chain(json!({ "select": { "mptcp": {} } }))]),
    );
    assert_eq!(rig.run(&["frobnicate"]).code, Some(2));
    assert_eq!(rig.run(&["apply"]).code, Some(2));
    rig.run(&["apply", "--dry-run", &same]).ok();
    let plan = rig.run(&["--json", "apply", "--dry-run", &other]);
    assert_eq!(plan.code, Some(3));
    assert_eq!(plan.json()["chains"]["changed"], json!(["c"]));
    in_force.assert_as_before();
    let answer = rig.run(&["--json", "apply", &same]).ok().json();
    assert_eq!(answer, json!({ "changed": false }));
    in_force.assert_as_before();
    for args in [
        &["--json", "show"][..],
        &["--json", "status"],
        &["--json", "modules"],
        &["--json", "modules", "record"],
        &["--json", "check", &other],
    ] {
        rig.run(args).ok().json();
    }
    rig.run(&["check", "--kernel", "5.10", &other]).ok();
    rig.run(&["--json", "delete"]).ok().json();
    for args in [
        &["--json", "show"][..],
        &["--json", "status"],
        &["--json", "delete"],
    ] {
        rig.run(args).ok().json();
    }
    rig.assert_nothing_left();
}

/// What `show` prints, `apply` reads; it changes nothing.
#[test]
fn root_shown_policy_can_be_applied() {
    let in_force = InForce::new();
    let rig = &in_force.rig;
    rig.apply(&json!([
        chain(json!({ "select": { "all": [{ "mptcp": {} }, { "not": { "dport": { "in": ["22", "8000-8010"] } } }] },
            "act": [{ "set_recv_win": { "bytes": "64KiB", "wscale": 7 } }] })),
        chain(json!({ "name": "d", "hook": ["xdp", "tc-egress"], "interfaces": ["p*"], "comment": "x",
            "priority": 3, "on_error": "drop", "zone": 4 })),
        chain(json!({ "name": "e", "enabled": false })),
    ]))
    .ok();
    let before = InForce::now(rig);
    let show = rig.run(&["--json", "show"]).ok();
    let path = rig.folder.write("shown.json", &show.out);
    let ran = rig.run(&["--json", "apply", path.to_str().unwrap()]).ok();
    assert_eq!(ran.json()["changed"], false, "{}", show.out);
    // And through a pipe.
    let ran = rig.feed(&["--json", "apply", "/dev/stdin"], &show.out);
    assert_eq!(ran.ok().json()["changed"], false);
    assert_eq!(InForce::now(rig), before);
}

/// Somebody without privilege: told what is missing; `check` needs none.
#[test]
fn root_without_privilege() {
    let in_force = InForce::new();
    let rig = &in_force.rig;
    // The binary and the policy may lie where only root can look.
    let folder = TempDir::new();
    std::fs::set_permissions(&folder.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    let binary = folder.0.join("emptcp");
    std::fs::copy(env!("CARGO_BIN_EXE_emptcp"), &binary).unwrap();
    let policy = json!({ "version": 1, "chains": [chain(json!({ "select": { "mptcp": {} } }))] });
    let policy = folder.write("p.json", policy.to_string());
    std::fs::set_permissions(&policy, std::fs::Permissions::from_mode(0o644)).unwrap();
    let policy = policy.to_str().unwrap();
    let run = |bpffs: bool, args: &[&str]| -> Ran {
        let mut command = rig.near.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command.arg(&binary).args(args).env_remove("EMPTCP_BPFFS");
        if bpffs {
            command.env("EMPTCP_BPFFS", &rig.bpffs.path);
        }
        command.output().unwrap().into()
    };
    for bpffs in [true, false] {
        for args in [&["apply", policy][..], &["delete"], &["status"], &["show"]] {
            run(bpffs, args).fails(&["run it as root, or with CAP_BPF"]);
        }
        run(bpffs, &["check", policy]).ok();
        run(bpffs, &["modules"]).ok();
    }
    in_force.assert_as_before();
}

#[test]
fn root_without_bpffs() {
    let rig = Rig::new(1, Tc::Tcx);
    let path = rig.policy("p.json", &json!([chain(json!({}))]));
    let run = |at: &std::path::Path| -> Ran {
        let mut command = rig.emptcp(&["apply", &path]);
        command.env("EMPTCP_BPFFS", at).output().unwrap().into()
    };
    run(&rig.folder.0).fails(&["EMPTCP_BPFFS", "no BPF file system", "mount -t bpf"]);
    run(std::path::Path::new("/nonexistent")).fails(&["EMPTCP_BPFFS", "no BPF file system"]);
    let read_only = BpfFs::new(true);
    run(&read_only.path).fails(&[
        "Read-only file system",
        &read_only.path.display().to_string(),
    ]);
    assert!(rig.bpffs.tree().is_empty());
    assert_eq!(rig.attached(), 0);
}
