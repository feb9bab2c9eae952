//! `emptcp run`: interfaces that come while it runs, and what is left when it goes.

use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use super::reader::Reader;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::wait_for;

/// What an interface that comes may wait for its chains.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn root_run_takes_up_interfaces_that_come() {
    let rig = Rig::new(1, Tc::Tcx);
    rig.apply(
        &json!([{ "name": "count", "hook": ["tc-ingress", "tc-egress"],
        "interfaces": ["p0", { "name": "p1", "optional": true }, "p[2-9]"],
        "act": [{ "record": {} }] }]),
    )
    .ok();
    let attached = rig.attached();
    let daemon = Reader::start(&rig, "run", &["run"]);
    for link in [1, 2] {
        let before = rig.attached();
        rig.add_link(link);
        let start = Instant::now();
        wait_for("chains of an interface that came", SOON, || {
            rig.attached() == before + 2
        });
        eprintln!("chains after {:?}", start.elapsed());
    }
    // Nothing else was changed, and one that goes takes its own along.
    rig.near.sh("ip link del p2");
    wait_for("the interface has gone", SOON, || {
        rig.status()["drift"] == json!([])
    });
    assert_eq!(rig.attached(), attached + 2);

    // When it dies, the policy stays.
    daemon.signal(Signal::SIGKILL);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(rig.attached(), attached + 2);
    let again = Reader::start(&rig, "run", &["run"]);
    rig.add_link(3);
    wait_for("chains of an interface that came", SOON, || {
        rig.attached() == attached + 4
    });
    let (out, err) = again.end();
    assert_eq!(
        (out.as_str(), err.as_str()),
        ("", "emptcp: running, until a signal (Ctrl-C) ends it\n")
    );
    rig.run(&["delete"]).ok();
    rig.assert_nothing_left();
}
