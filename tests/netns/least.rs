//! The least privilege: a user without any other capability than CAP_BPF, CAP_PERFMON and
//! CAP_NET_ADMIN, with a BPF file system of its own.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use super::rig::Ran;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::sh;

const NOBODY: u32 = 65534;
const ALL: [&str; 3] = ["bpf", "perfmon", "net_admin"];

struct User {
    rig: Rig,
    /// A copy that the user can read, wherever the tree is.
    program: PathBuf,
}

impl User {
    fn new(tc: Tc) -> Self {
        let rig = Rig::new(1, tc);
        let program = rig.folder.0.join("emptcp");
        fs::copy(env!("CARGO_BIN_EXE_emptcp"), &program).unwrap();
        sh(&format!(
            "chown {NOBODY}:{NOBODY} {}",
            rig.bpffs.path.display()
        ));
        sh(&format!("chmod 700 {}", rig.bpffs.path.display()));
        Self { rig, program }
    }

    fn run(&self, capabilities: &[&str], args: &[&str]) -> Ran {
        let capabilities: String = capabilities.iter().map(|c| format!(",+{c}")).collect();
        let mut command = self.rig.near.command("setpriv");
        command
            .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
            .arg("--clear-groups")
            .args(
                ["inh-caps", "ambient-caps", "bounding-set"]
                    .map(|set| format!("--{set}=-all{capabilities}")),
            )
            .arg(&self.program)
            .args(args)
            .env("EMPTCP_BPFFS", &self.rig.bpffs.path);
        if self.rig.tc == Tc::Clsact {
            command.env("EMPTCP_NO_TCX", "1");
        }
        command.output().unwrap().into()
    }

    fn apply(&self, capabilities: &[&str], chains: &Value) -> Ran {
        let path = self.rig.policy("policy.json", chains);
        self.run(capabilities, &["apply", &path])
    }
}

fn chains(port: u16) -> Value {
    json!([
        { "name": "edit", "hook": ["tc-ingress", "tc-egress"], "interfaces": ["p0"],
          "select": { "dport": { "in": port } },
          "act": [{ "record": {} }, { "set_recv_win": { "bytes": "64KiB", "wscale": 7 } }] },
        { "name": "early", "hook": "xdp", "interfaces": ["p0"],
          "select": { "all": [{ "mptcp": {} }, { "src": { "in": (0..40).map(|n| format!("10.{n}.0.0/16")).collect::<Vec<_>>() } }] },
          "act": [{ "record": {} }] }
    ])
}

/// The life of a policy, with the exchange of programs, which open those in force.
#[test]
fn root_three_capabilities_are_enough() {
    for tc in Tc::ALL {
        let user = User::new(tc);
        user.apply(&ALL, &chains(80)).ok();
        user.apply(&ALL, &chains(81)).ok();
        assert!(
            user.apply(&ALL, &chains(81))
                .ok()
                .err
                .contains("nothing to change")
        );
        let status = user.run(&ALL, &["--json", "status", "--state"]).ok().json();
        assert_eq!(status["attachments"].as_array().unwrap().len(), 3);
        assert_eq!(status["drift"], json!([]));
        user.run(&ALL, &["status", "--all"]).ok();
        user.run(&ALL, &["--json", "show"]).ok().json();
        // Other modes and positions: detached and attached anew.
        let mut other = chains(81);
        other[1]["xdp"] = json!({ "mode": "generic" });
        other[0]["position"] = json!("first");
        user.apply(&ALL, &other).ok();
        // What the demo applies.
        let demo = include_str!("../../examples/clamp-path.json").replace("\"c2\"", "\"p0\"");
        let demo = user.rig.folder.write("demo.json", demo);
        user.run(&ALL, &["apply", demo.to_str().unwrap()]).ok();
        assert_eq!(
            user.run(&ALL, &["--json", "status"]).ok().json()["attachments"][0]["interface"],
            "p0"
        );
        user.run(&ALL, &["delete"]).ok();
        user.rig.assert_nothing_left();
    }
}

#[test]
fn root_a_missing_capability_is_named() {
    let user = User::new(Tc::Tcx);
    for missing in ALL {
        let rest: Vec<&str> = ALL.into_iter().filter(|c| *c != missing).collect();
        let name = format!("lacks CAP_{}:", missing.to_uppercase());
        user.apply(&rest, &chains(80)).fails(&[&name]);
        user.rig.assert_nothing_left();
    }
    user.apply(&[], &chains(80))
        .fails(&["lacks CAP_BPF and CAP_PERFMON and CAP_NET_ADMIN"]);
    // To look needs less.
    user.apply(&ALL, &chains(80)).ok();
    for verb in ["status", "show"] {
        user.run(&["bpf"], &[verb]).ok();
    }
    for missing in ALL {
        let rest: Vec<&str> = ALL.into_iter().filter(|c| *c != missing).collect();
        let name = format!("lacks CAP_{}:", missing.to_uppercase());
        user.apply(&rest, &chains(81)).fails(&[&name]);
        // The policy before stays in force.
        let policy = user.run(&ALL, &["--json", "show"]).ok().json();
        assert_eq!(policy["chains"][0]["select"]["dport"]["in"], json!(80));
    }
    assert_eq!(user.rig.attached(), 3);
    user.run(&ALL, &["delete"]).ok();
    user.rig.assert_nothing_left();
}

/// What takes more says so, with the way round.
#[test]
fn root_a_position_by_name_takes_more() {
    let user = User::new(Tc::Tcx);
    user.apply(&ALL, &chains(80)).ok();
    let status = user.run(&ALL, &["--json", "status"]).ok().json();
    let egress = status["attachments"]
        .as_array()
        .unwrap()
        .iter()
        .find(|a| a["hook"] == "tc-egress");
    let id = egress.unwrap()["program"].as_u64().unwrap();
    let placed = |before: Value| {
        let mut other = chains(80);
        other[0]["hook"] = json!("tc-egress");
        other[0]["position"] = json!({ "before": before });
        other
    };
    let found = format!("{{\"before\": {id}}}");
    user.apply(&ALL, &placed(json!("emptcp_entry")))
        .fails(&["CAP_SYS_ADMIN", &found]);
    user.apply(&ALL, &placed(json!(id))).ok();
    user.run(&ALL, &["delete"]).ok();
    user.rig.assert_nothing_left();
}
