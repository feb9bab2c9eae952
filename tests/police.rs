//! What the actor `police` lets pass, to the byte: everything between what the clock allows at the
//! least and at the most.

#![allow(clippy::unwrap_used)]

mod kernel;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use emptcp::datapath::Options;
use emptcp::module::Hook;
use emptcp::module::Kind;
use emptcp::module::Registry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use kernel::Loaded;
use serde_json::Value;
use serde_json::json;

/// How long each rate is asked for.
const TIME: Duration = Duration::from_millis(700);
/// Packets of one test run: at XDP the kernel waits for a grace period before each and after it.
fn packets(hook: Hook) -> u32 {
    if hook == Hook::Xdp { 40_000 } else { 2000 }
}

fn packet(bytes: usize, sport: u16) -> Vec<u8> {
    let text = json!({ "tcp": { "sport": sport }, "payload": bytes - 54 });
    let packet: Packet = serde_json::from_value(text).unwrap();
    let built = packet.build(Family::Ip4).unwrap().bytes;
    assert_eq!(built.len(), bytes);
    built
}

fn load(hook: Hook, params: &Value, tables: &Value) -> Loaded {
    let registry = Registry::builtin().unwrap();
    let mut chain = json!({ "name": "tested", "act": [{ "police": params }] });
    if params["rate"].is_object() {
        chain["select"] = json!({ "sport": { "table": "rates" } });
    }
    Loaded::with_tables(&registry, hook, &[chain], tables, Options::default()).unwrap()
}

/// Packets that passed and that were dropped so far.
fn counted(loaded: &Loaded) -> (u64, u64) {
    let node = loaded.nodes(0, Kind::Actor)[0];
    let counters = loaded.instance.counters().unwrap()[node];
    assert_eq!(counters.errors, 0);
    (counters.evaluated - counters.matched, counters.matched)
}

/// What passed, and what may have.
#[derive(Debug)]
struct Passed {
    bytes: f64,
    least: f64,
    most: f64,
    /// The longest time in which it is not known that a packet came.
    stalled: Duration,
}

/// Offers more than the rate on so many threads. `rate`: bits per second.
fn offer(loaded: &Loaded, packet: &[u8], rate: u64, burst: u64, threads: u64) -> Passed {
    let size = packet.len() as u64;
    let run = |packets| loaded.instance.run(packet, None, packets).unwrap();
    let in_time = |time: Duration| rate as f64 / 8.0 * time.as_secs_f64();
    let many = packets(loaded.graph.hook);
    // The bucket, full or nearly so.
    run(1);
    let before = counted(loaded);
    let start = Instant::now();
    run(many);
    let begun = Instant::now();
    let offer = || {
        let (mut latest, mut stalled) = (start, Duration::ZERO);
        while start.elapsed() < TIME {
            run(many);
            stalled = stalled.max(latest.elapsed());
            latest = Instant::now();
        }
        stalled
    };
    let stalled = std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(offer);
        }
        offer()
    });
    // Until there is nothing left that could pass.
    let (last, end, after) = loop {
        let dropped = counted(loaded).1;
        let last = Instant::now();
        run(many);
        let end = Instant::now();
        let after = counted(loaded);
        if after.1 > dropped {
            break (last, end, after);
        }
    };
    let more = (threads * size) as f64;
    Passed {
        bytes: ((after.0 - before.0) * size) as f64,
        least: burst as f64 + in_time(last - begun) - 2.0 * size as f64,
        most: burst as f64 + in_time(end - start) + more,
        stalled,
    }
}

/// Tries again where the machine stalled, so that it is not known how much should have passed.
fn exact(load: impl Fn() -> Loaded, packet: &[u8], (rate, burst): (u64, u64), threads: u64) {
    // One at a time: tests run side by side.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..20 {
        let loaded = load();
        let what = format!("{} {rate} bit/s", loaded.graph.hook);
        let passed = offer(&loaded, packet, rate, burst, threads);
        println!("{what}: {passed:?}");
        assert!(passed.bytes <= passed.most, "{what}: {passed:?}");
        // A bucket that is full gets no more.
        if passed.stalled.as_secs_f64() * rate as f64 / 8.0 > burst as f64 {
            continue;
        }
        assert!(passed.bytes >= passed.least, "{what}: {passed:?}");
        // How well the clock tells when packets came.
        let known = if loaded.graph.hook == Hook::Xdp {
            0.1
        } else {
            0.01
        };
        let packets = 4.0 * packet.len() as f64;
        if passed.most - passed.least < passed.least * known + packets {
            return;
        }
    }
    panic!("the machine stalls all the time");
}

#[test]
fn root_police_is_exact() {
    let none = json!({});
    for hook in Hook::ALL {
        for (rate, bits, burst, size) in [
            ("4Mbit", 4_000_000, 200_000, 1000),
            ("100Mbit", 100_000_000, 2 << 20, 1514),
            ("200Mbit", 200_000_000, 16 << 20, 333),
            ("3Gbit", 3_000_000_000, 128 << 20, 3000),
        ] {
            for per in ["chain", "subflow"] {
                let params = json!({ "rate": rate, "burst": burst, "per": per });
                let packet = packet(size, 42000);
                exact(|| load(hook, &params, &none), &packet, (bits, burst), 1);
            }
        }
    }
}

#[test]
fn root_police_is_exact_on_several_cpus() {
    for hook in Hook::ALL {
        let params = json!({ "rate": "500Mbit", "burst": 20_000_000 });
        let threads = std::thread::available_parallelism().unwrap().get() as u64;
        let packet = packet(1000, 42000);
        let load = || load(hook, &params, &json!({}));
        exact(load, &packet, (500_000_000, 20_000_000), threads);
    }
}

/// The rate comes from a table, the burst from the rate: 250 ms of it, or 128 KiB.
#[test]
fn root_police_by_rates_of_a_table() {
    let tables = json!({ "rates": { "type": "port", "value": "rate",
        "elements": { "42000": "160Mbit", "42001": "1Mbit" } } });
    let params = json!({ "rate": { "table": "rates" }, "per": "subflow" });
    for hook in Hook::ALL {
        for (port, bits, burst) in [
            (42000, 160_000_000, 5_000_000),
            (42001, 1_000_000, 128 << 10),
        ] {
            let packet = packet(1000, port);
            exact(|| load(hook, &params, &tables), &packet, (bits, burst), 1);
        }
    }
}

/// Packets of one entry share its bucket, whatever their subflows; those of another one do not. Prefixes
/// of several lengths: the one that matched counts.
#[test]
fn root_police_by_entries_of_a_table() {
    let tables = json!({ "rates": { "type": "prefix", "value": "rate",
        "elements": { "10.0.0.0/8": "8kbit", "10.1.0.0/16": "8kbit" } } });
    let params = json!({ "rate": { "table": "rates" }, "burst": 5000, "per": "entry" });
    let chain = json!({ "name": "tested", "select": { "src": { "table": "rates" } },
        "act": [{ "police": params }] });
    let from = |src: &str, sport: u16| {
        let text = json!({ "ip": { "src": src }, "tcp": { "sport": sport }, "payload": 946 });
        let packet: Packet = serde_json::from_value(text).unwrap();
        packet.build(Family::Ip4).unwrap().bytes
    };
    let registry = Registry::builtin().unwrap();
    for hook in Hook::ALL {
        let options = Options::default();
        let chains = std::slice::from_ref(&chain);
        let loaded = Loaded::with_tables(&registry, hook, chains, &tables, options).unwrap();
        let passed = |src, sport, packets| {
            let before = counted(&loaded).0;
            loaded
                .instance
                .run(&from(src, sport), None, packets)
                .unwrap();
            counted(&loaded).0 - before
        };
        assert_eq!(passed("10.0.0.1", 1, 3), 3, "{hook}");
        assert_eq!(
            passed("10.0.9.9", 2, 50),
            2,
            "{hook}: the rest of the bucket"
        );
        assert_eq!(passed("10.1.0.1", 1, 50), 5, "{hook}: a bucket of its own");
        assert_eq!(passed("10.0.0.1", 3, 50), 0, "{hook}: empty");
        assert_eq!(passed("10.1.9.9", 4, 50), 0, "{hook}: empty");
    }
}

/// A bucket for each destination address.
#[test]
fn root_police_by_destinations() {
    for hook in Hook::ALL {
        let params = json!({ "rate": "8kbit", "burst": 5000, "per": "dst" });
        let loaded = load(hook, &params, &json!({}));
        let to = |dst: &str, sport: u16| {
            let text = json!({ "ip": { "dst": dst }, "tcp": { "sport": sport }, "payload": 946 });
            let packet: Packet = serde_json::from_value(text).unwrap();
            let bytes = packet.build(Family::Ip4).unwrap().bytes;
            loaded.instance.run(&bytes, None, 50).unwrap();
            counted(&loaded).0
        };
        assert_eq!(to("b", 1), 5, "{hook}");
        assert_eq!(to("b", 2), 5, "{hook}: another subflow");
        assert_eq!(to("c", 1), 10, "{hook}: another destination");
    }
}

/// What is dropped takes no tokens, and a full bucket does not grow.
#[test]
fn root_police_lets_no_more_than_the_burst_pass_after_a_pause() {
    for hook in Hook::ALL {
        let loaded = load(hook, &json!({ "rate": "8kbit", "burst": 5000 }), &json!({}));
        let packet = packet(1000, 42000);
        loaded.instance.run(&packet, None, 50).unwrap();
        assert_eq!(counted(&loaded), (5, 45), "{hook}: 1000 bytes a second");
        std::thread::sleep(Duration::from_millis(2100));
        loaded.instance.run(&packet, None, 50).unwrap();
        assert_eq!(counted(&loaded), (7, 93), "{hook}: two seconds later");
    }
}

/// The selector `limit` goes by the same bucket: packets that match, and so are accepted.
#[test]
fn root_limit_is_exact() {
    let registry = Registry::builtin().unwrap();
    let packet = packet(100, 42000);
    for hook in Hook::ALL {
        let limit = json!({ "packets": 5000, "in": "500ms", "burst": 2000 });
        let chain = json!({ "name": "tested", "select": { "limit": limit },
            "act": [{ "accept": {} }] });
        let options = Options::default();
        let chains = std::slice::from_ref(&chain);
        let loaded = Loaded::with_tables(&registry, hook, chains, &json!({}), options).unwrap();
        let node = loaded.nodes(0, Kind::Actor)[0];
        let passed = || loaded.instance.counters().unwrap()[node].matched;
        // The bucket, full; all of it is spent at once.
        loaded.instance.run(&packet, None, 1).unwrap();
        let start = Instant::now();
        let before = passed();
        while start.elapsed() < TIME {
            loaded.instance.run(&packet, None, 3000).unwrap();
        }
        let spent = Instant::now();
        let least = (spent - start).as_secs_f64() * 10_000.0;
        // Until there is nothing left that could match.
        loaded.instance.run(&packet, None, 30_000).unwrap();
        let most = start.elapsed().as_secs_f64() * 10_000.0 + 2002.0;
        let passed = (passed() - before) as f64;
        assert!(passed <= most, "{hook}: {passed}, {most} at the most");
        // A machine that stalls for longer than the burst lasts proves less.
        assert!(passed >= least.min(2000.0), "{hook}: {passed}, {least}");
        println!("{hook}: {passed} of {least} to {most}");
    }
}
