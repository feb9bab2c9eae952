//! What is refused.

use super::*;

/// All that is refused, is before anything runs or is written: none of it needs a privilege.
#[test]
fn refusals() {
    let folder = Folder::new();
    let chain = |name: &str, hook: Value, interface: &str| {
        json!({ "name": name, "hook": hook,
        "interfaces": [interface], "act": [{ "record": {} }] })
    };
    let several = folder.policy(&json!([
        chain("a", json!(["xdp", "tc-egress"]), "eth0"),
        chain("b", json!("tc-egress"), "eth1")
    ]));
    let good = tests_pcaps().join("mptcp-aa-v1.pcap");
    let egress = &["--hook", "tc-egress"][..];
    replay(&several, &good, &[]).refused(&["xdp and at tc-egress", "--hook"]);
    replay(&several, &good, &["--hook", "tc-ingress"]).refused(&["tc-ingress", "xdp, tc-egress"]);

    let out = folder.0.join("out.pcap");
    let to_out = [egress, &["-o", out.to_str().unwrap()]].concat();
    let bytes = fs::read(&good).unwrap();
    let cut = folder.write("cut.pcap", &bytes[..bytes.len() - 3]);
    replay(&several, &cut, &to_out).refused(&["truncated", "packet 23", "cut.pcap"]);
    let header = folder.write("header.pcap", &bytes[..20]);
    replay(&several, &header, &to_out).refused(&["within its header"]);
    let empty = folder.write("empty.pcap", []);
    replay(&several, &empty, &to_out).refused(&["is empty"]);
    let text = folder.write(
        "text.pcap",
        "no capture, but text that is long enough for one",
    );
    replay(&several, &text, &to_out).refused(&["neither pcap nor pcapng"]);
    let wlan = folder.write("wlan.pcap", pcap(105, [(0, &[0; 60][..])]));
    replay(&several, &wlan, &to_out).refused(&["packet 1", "link type 105", "276"]);
    let missing = folder.0.join("missing.pcap");
    replay(&several, &missing, &to_out).refused(&["missing.pcap", "No such file"]);
    assert!(!out.exists());

    let copy = folder.write("copy.pcap", &bytes);
    let link = folder.0.join("link.pcap");
    std::os::unix::fs::symlink(&copy, &link).unwrap();
    let to_itself = [egress, &["-o", link.to_str().unwrap()]].concat();
    replay(&several, &copy, &to_itself).refused(&["is the capture itself"]);
    assert_eq!(fs::read(&copy).unwrap(), bytes);
}

/// A pcapng file that ends within a block, and one whose blocks say that they are huge.
#[test]
fn damaged_pcapng() {
    let folder = Folder::new();
    let policy = folder.policy(&looking("xdp", &[("mptcp", json!({}))]));
    let whole = ng::write([(Framing::Ethernet, &[0; 60][..])]);
    let cut = folder.write("cut.pcapng", &whole[..whole.len() - 5]);
    replay(&policy, &cut, &[]).refused(&["truncated", "packet 0"]);
    let mut huge = whole.clone();
    let block = whole.len() - (32 + 60);
    huge[block + 4..block + 8].copy_from_slice(&0x7fff_fff0_u32.to_le_bytes());
    let huge = folder.write("huge.pcapng", huge);
    let ran = replay(&policy, &huge, &[]);
    assert!(
        !ran.ok && !ran.errors.contains("panicked"),
        "{}",
        ran.errors
    );
}

/// A user without privilege is told what is missing.
#[test]
fn root_needs_privilege() {
    let folder = Folder::new();
    let policy = folder.policy(&looking("xdp", &[("mptcp", json!({}))]));
    let program = folder.0.join("emptcp");
    fs::copy(env!("CARGO_BIN_EXE_emptcp"), &program).unwrap();
    let capture = folder.0.join("in.pcap");
    fs::copy(tests_pcaps().join("mptcp-aa-v1.pcap"), &capture).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args([&program, Path::new("replay"), &policy, &capture])
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("lacks CAP_SYS_ADMIN"), "{errors}");
}
