// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The example rate.py at a receiver: the sender, at the other end of a link of 20 Mbit/s and 40 ms,
//! keeps to the rate while the program is there.

use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use emptcp_lab::Lab;
use nix::sys::signal::Signal;
use serde_json::Value;
use serde_json::json;

use super::stage::*;
use crate::raw;
use crate::rig::Rig;
use crate::rig::wait_for;

/// How long the loop may take to meet a rate.
const SETTLE: Duration = Duration::from_millis(3000);
const MEASURE: Duration = Duration::from_millis(1500);

fn lab() -> Lab {
    let text = json!({ "version": 1,
        "hosts": { "client": {}, "server": {} },
        "links": [{ "name": "path", "rate": "20Mbit", "delay": "20ms", "queue": "128KiB",
            "a": { "host": "client", "dev": "c0", "addresses": ["10.0.1.2/24"] },
            "b": { "host": "server", "dev": "s0", "addresses": ["10.0.1.1/24"] } }] });
    Lab::from_json(&text.to_string()).unwrap()
}

/// Puts the example's policy in force at the client, and the program where everybody may run it.
fn example(rig: &Rig) -> String {
    use std::os::unix::fs::PermissionsExt as _;

    let text = include_str!("../../../examples/exec/rate.json");
    let mut policy: Value = serde_json::from_str(text).unwrap();
    policy["track"] = json!(["c0"]);
    policy["chains"][0]["interfaces"] = json!(["c0"]);
    let path = rig.folder.write("rate.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let text = include_str!("../../../examples/exec/rate.py");
    let path = rig.folder.write("rate.py", text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Mbit/s of what arrives, once it has had time to settle.
fn rate(received: &AtomicU64) -> f64 {
    std::thread::sleep(SETTLE);
    let (start, before) = (Instant::now(), received.load(Ordering::Relaxed));
    std::thread::sleep(MEASURE);
    let bytes = received.load(Ordering::Relaxed) - before;
    8e-6 * bytes as f64 / start.elapsed().as_secs_f64()
}

#[test]
fn root_exec_example_rate() {
    let lab = lab();
    let rig = Rig::in_lab(&lab, "client", "server");
    let program = example(&rig);
    let any = "0.0.0.0".parse().unwrap();
    let listen = || TcpListener::from(raw::mptcp_listener(any, PORT));
    let listener = rig.far.within(listen);
    let to: SocketAddr = format!("10.0.1.1:{PORT}").parse().unwrap();
    let mut client = rig.near.within(|| TcpStream::from(raw::mptcp_connect(to)));
    let (mut server, _) = listener.accept().unwrap();
    raw::set_congestion(&server, "cubic");
    server.set_write_timeout(Some(LIMIT)).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let received = AtomicU64::new(0);
    let end = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        // Until the client shuts down.
        scope.spawn(move || while server.write_all(&[7; 16384]).is_ok() {});
        scope.spawn(|| {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = client.read(&mut buffer) {
                received.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        // Its end, also when an assertion fails: the threads above would be waited for.
        let _end = ShutDown(&end);
        for target in [5.0, 2.0] {
            let daemon = run(&rig, &["--exec", &program, "--", &target.to_string()]);
            let measured = rate(&received);
            println!("target {target}, measured {measured:.2} Mbit/s");
            assert!(
                (measured / target - 1.0).abs() < 0.15,
                "{target}: {measured}\n{}",
                said(&rig)
            );
            let shown = format!("target {target:.2}, measured ");
            assert!(said(&rig).contains(&shown), "{}", said(&rig));
            assert!(!said(&rig).contains("Traceback"), "{}", said(&rig));
            assert_eq!(table(&rig, "window").as_object().unwrap().len(), 1);
            if target == 5.0 {
                daemon.end();
            } else {
                daemon.signal(Signal::SIGKILL);
                wait_for("its entries are taken back", LIMIT, || {
                    table(&rig, "window") == json!({})
                });
            }
        }
        let measured = rate(&received);
        println!("without the program {measured:.2} Mbit/s");
        assert!(measured > 12.0, "{measured}");
    });
    assert!(!raw::mptcp_fell_back(&end));
}

/// Ends a connection when it is dropped.
struct ShutDown<'a>(&'a TcpStream);

impl Drop for ShutDown<'_> {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}
