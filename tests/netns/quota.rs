// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The actor `quota` on connections of Multipath TCP: the second subflow becomes backup once it has
//! carried its bytes, and comes back with the next period; no further subflows behind it.

use std::time::Duration;

use nix::time::ClockId;
use nix::time::clock_gettime;
use serde_json::Value;
use serde_json::json;

use super::grow::Ends;
use super::grow::LIMIT;
use super::grow::PORT;
use super::grow::SIZE;
use super::grow::Sender;
use super::mptcp::counter;
use super::mptcp::subflows;
use super::raw;
use super::reader::Reader;
use super::rig::wait_for;

const BYTES: u64 = 256 << 10;
const PERIOD: Duration = Duration::from_secs(6);

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into()
}

/// The number of the period.
fn period() -> u64 {
    since_boot().as_secs() / PERIOD.as_secs()
}

fn quota(interfaces: &[&str], params: Value) -> Value {
    json!({ "name": "quota", "hook": ["tc-ingress", "tc-egress"], "interfaces": interfaces,
        "select": { "mptcp": {} }, "act": [{ "quota": params }] })
}

/// Bytes that were used of each quota in force, with the numbers of the periods.
fn used(ends: &Ends) -> Vec<(u64, u64)> {
    let state = ends.0.run(&["--json", "status", "--state"]).ok().json();
    let maps = state["state"].as_array().unwrap();
    let map = maps.iter().find(|m| m["map"] == "quotas").unwrap();
    let entries = map["entries"].as_array().unwrap().iter();
    entries
        .map(|e| {
            assert_eq!(e["name"], "second", "{e}");
            (e["period"].as_u64().unwrap(), e["bytes"].as_u64().unwrap())
        })
        .collect()
}

fn backup_and_back(per: &str, v6: bool) {
    let ends = Ends::new();
    let what = format!("per {per}, IPv6 {v6}");
    let params = json!({ "name": "second", "bytes": BYTES, "per": per, "then": "backup",
        "period": format!("{}s", PERIOD.as_secs()), "owner": 9 });
    ends.apply(&[quota(&["p1"], params)]);
    (ends.0.far).sh("sysctl -qw net.ipv4.tcp_keepalive_time=1 net.ipv4.tcp_keepalive_intvl=1");
    let monitor = Reader::start(&ends.0, "m", &["--json", "monitor", "quota"]);
    let mut connection = ends.connect(v6);
    connection.probe_idle();
    let errors = ends.errors();
    // Early in a period, so that it does not end in between.
    wait_for("a new period", 2 * PERIOD, || {
        since_boot().as_millis() % PERIOD.as_millis() < 500
    });
    let begun = period();
    let received = || counter(&ends.0.far, "MPTcpExtMPPrioRx");
    let before = received();
    let start = ends.sent(Sender::Far, 1);
    wait_for("MP_PRIO", LIMIT, || {
        connection.send(Sender::Far, SIZE / 8);
        received() > before
    });
    let carried = ends.sent(Sender::Far, 1) - start;
    // What was queued drains.
    std::thread::sleep(Duration::from_millis(20));
    let start = ends.sent(Sender::Far, 1);
    connection.send(Sender::Far, 2 * SIZE);
    let left = ends.sent(Sender::Far, 1) - start;
    let spent = used(&ends);
    assert_eq!(period(), begun, "{what}: slower than a period");
    println!("{what}: {carried} bytes until MP_PRIO, {left} after; used {spent:?}");
    assert_eq!(received(), before + 1, "{what}");
    assert!(carried >= BYTES, "{what}");
    assert!(left < SIZE as u64 / 64, "{what}");
    let now: Vec<u64> = spent.iter().filter(|s| s.0 == begun).map(|s| s.1).collect();
    assert!(now.len() == 1 && now[0] >= BYTES, "{what}: {spent:?}");
    assert!(now[0] <= carried, "{what}: {spent:?}");

    // The kernel asks whether the idle subflow lives, and the answer carries MP_PRIO.
    wait_for("the way back", 2 * PERIOD, || {
        connection.send(Sender::Far, 4096);
        std::thread::sleep(Duration::from_millis(20));
        received() == before + 2
    });
    assert!(period() > begun, "{what}");
    wait_for("used up anew", LIMIT, || {
        connection.send(Sender::Far, SIZE / 8);
        received() == before + 3
    });
    assert!(
        used(&ends).iter().all(|s| s.0 > begun),
        "{what}: of a period before"
    );
    assert!(!connection.fell_back(), "{what}");
    assert_eq!(subflows(&ends.0.near), 2, "{what}");
    assert_eq!(ends.errors(), errors, "{what}");
    let (out, _) = monitor.end();
    let told: Vec<Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(told.len(), 2, "{what}: once in each of two periods: {out}");
    for event in &told {
        assert_eq!(
            (&event["type"], &event["name"]),
            (&json!("quota"), &json!("second"))
        );
        assert_eq!(event["limit"], json!(BYTES), "{what}");
        assert!(event["bytes"].as_u64().unwrap() >= BYTES, "{what}");
        assert_eq!(event["interface"], "p1", "{what}");
    }
}

#[test]
fn root_quota_backup_and_back() {
    backup_and_back("subflow", false);
    backup_and_back("connection", true);
    backup_and_back("all", false);
}

/// A connection that has carried its bytes goes on, and gets no further subflow until it may carry
/// more.
#[test]
fn root_quota_rejects_joins() {
    let ends = Ends::new();
    let policy = |bytes: &str| {
        let params = json!({ "name": "second", "bytes": bytes, "per": "connection",
            "then": "reject" });
        ends.apply(&[quota(&["p0", "p1"], params)]);
    };
    policy("256KiB");
    let mut connection = ends.connect(false);
    // MP_JOIN needs one.
    let any = std::net::Ipv4Addr::UNSPECIFIED.into();
    let _listener = (ends.0.far).within(|| raw::mptcp_listener(any, PORT));
    connection.send(Sender::Far, SIZE);
    ends.0.far.sh("ip mptcp endpoint flush");
    wait_for("one subflow", LIMIT, || subflows(&ends.0.near) == 1);
    ends.0.far.sh("ip mptcp endpoint add 10.77.1.1 id 9 signal");
    let dropped = || ends.treated("quota").0;
    wait_for("a join that is dropped", LIMIT, || {
        connection.send(Sender::Far, 4096);
        dropped() > 0
    });
    connection.send(Sender::Far, SIZE);
    assert_eq!(subflows(&ends.0.near), 1);
    policy("10GiB");
    // The kernel does not try that one again for long: another one.
    ends.0.near.sh("ip mptcp endpoint add 10.77.1.2 subflow");
    wait_for("the second subflow", LIMIT, || {
        connection.send(Sender::Far, 4096);
        subflows(&ends.0.near) == 2
    });
    assert!(!connection.fell_back());
}

/// The file as it is, on a link that has the name which it gives. Then with other numbers: nobody
/// waits for a day.
#[test]
fn root_quota_example() {
    let ends = Ends::new();
    // The addresses of IPv4 stay.
    (ends.0.near).sh("ip link set p1 down && ip link set p1 name wwan0 && ip link set wwan0 up");
    (ends.0.far).sh("sysctl -qw net.ipv4.tcp_keepalive_time=1 net.ipv4.tcp_keepalive_intvl=1");
    let text = include_str!("../../examples/quota.json");
    let apply = |text: &str| {
        let path = ends.0.folder.write("quota.json", text);
        ends.0.run(&["apply", path.to_str().unwrap()]).ok();
    };
    apply(text);
    let mut connection = ends.connect(false);
    connection.probe_idle();
    let received = || counter(&ends.0.far, "MPTcpExtMPPrioRx");
    let before = received();
    let start = ends.sent(Sender::Far, 1);
    let carried = || ends.sent(Sender::Far, 1) - start;
    let day: u64 = 200 << 20;
    let mut early = 0;
    wait_for("MP_PRIO behind 200 MiB", 4 * LIMIT, || {
        connection.send(Sender::Far, 8 * SIZE);
        let told = received() > before;
        if !told {
            early = carried();
        }
        told
    });
    let at = carried();
    println!("{early} bytes before it was backup, {at} then");
    assert!(at >= day, "{at}");
    // What comes by between two looks.
    assert!(early < day + day / 8, "{early}");
    let share = |connection: &mut super::grow::Connection| {
        std::thread::sleep(Duration::from_millis(20));
        let start = ends.sent(Sender::Far, 1);
        connection.send(Sender::Far, 4 * SIZE);
        (ends.sent(Sender::Far, 1) - start) as f64 / (4 * SIZE) as f64
    };
    let left = share(&mut connection);
    assert!(left < 0.01, "{left}");

    // Another period, of which nothing is used up.
    let short = text
        .replace("24h", &format!("{}s", PERIOD.as_secs()))
        .replace("200MiB", "16MiB");
    apply(&short);
    let back = |connection: &mut super::grow::Connection, number: u64| {
        wait_for("the way back", 2 * PERIOD, || {
            connection.send(Sender::Far, 4096);
            std::thread::sleep(Duration::from_millis(20));
            received() == before + number
        });
    };
    back(&mut connection, 2);
    let used = share(&mut connection);
    assert!(used > 0.1, "{used}");
    wait_for("used up anew", LIMIT, || {
        connection.send(Sender::Far, SIZE);
        received() == before + 3
    });
    let begun = period();
    let left = share(&mut connection);
    assert_eq!(period(), begun, "slower than a period");
    assert!(left < 0.01, "{left}");
    back(&mut connection, 4);
    assert!(period() > begun);
    let used = share(&mut connection);
    assert!(used > 0.1, "{used}");
    assert!(!connection.fell_back());
    assert_eq!(subflows(&ends.0.near), 2);
}
