//! Links do what their file says, measured from outside the relay.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use emptcp_lab::{Lab, undisturbed};
use serial_test::serial;

fn assert_near(what: &str, measured: f64, expected: f64, tolerance: f64) {
    eprintln!("{what}: {measured:.3}, expected {expected} ± {tolerance}");
    assert!(
        (measured - expected).abs() <= tolerance,
        "{what}: {measured}, expected {expected}"
    );
}

#[test]
#[serial]
fn root_lab_idle_round_trip() {
    need_root();
    let config = pair(1, r#""rate": "50Mbit", "delay": "10ms""#);
    for (client, server) in [
        ("10.0.1.1:0", "10.0.1.2:7"),
        ("[fd00:1::1]:0", "[fd00:1::2]:7"),
    ] {
        let measure = |lab: &Lab| round_trips(lab, ("a", client), ("b", server), 50);
        let (times, _) = undisturbed(ATTEMPTS, &config, measure).unwrap();
        assert_near("median RTT in ms", quantile(&times, 0.5), 20.0, 1.0);
        assert!(times[0] >= 20.0, "never early: {times:?}");
    }
}

#[test]
#[serial]
fn root_lab_loaded_round_trip() {
    need_root();
    let config = pair(1, r#""rate": "50Mbit", "delay": "10ms""#);
    let (times, report) = undisturbed(ATTEMPTS, &config, |lab| {
        let end = AtomicBool::new(false);
        let from = udp(lab, "a", "10.0.1.1:0")?;
        // Nobody reads it; what it measures is the way there.
        let to = udp(lab, "b", "10.0.1.2:9")?;
        std::thread::scope(|scope| {
            scope.spawn(|| blast(&from, to.local_addr().unwrap(), 1472, 20e6, &end));
            let times = round_trips(lab, ("a", "10.0.1.1:0"), ("b", "10.0.1.2:7"), 50);
            end.store(true, Ordering::Relaxed);
            times
        })
    })
    .unwrap();
    assert!(report.directions[0].frames > 1000, "there was no load");
    assert_near("median RTT in ms", quantile(&times, 0.5), 20.0, 1.0);
}

#[test]
#[serial]
fn root_lab_rate_of_one_link() {
    need_root();
    for megabits in [10.0, 50.0] {
        let config = pair(1, &format!(r#""rate": "{megabits}Mbit", "delay": "5ms""#));
        let (rates, report) = undisturbed(ATTEMPTS, &config, |lab| {
            saturate(
                lab,
                &[("a", "10.0.1.1:0", "b", "10.0.1.2:7")],
                megabits * 1.2e6,
            )
        })
        .unwrap();
        assert!(
            report.directions[0].queue_full > 100,
            "the link was not saturated"
        );
        assert_near("Mbit/s", median(rates[0]) / 1e6, megabits, megabits * 0.03);
    }
}

#[test]
#[serial]
fn root_lab_rate_of_two_links() {
    need_root();
    let config = pair(2, r#""rate": "50Mbit", "delay": "5ms""#);
    let (rates, report) = undisturbed(ATTEMPTS, &config, |lab| {
        let paths = [
            ("a", "10.0.1.1:0", "b", "10.0.1.2:7"),
            ("a", "10.0.2.1:0", "b", "10.0.2.2:7"),
        ];
        saturate(lab, &paths, 60e6)
    })
    .unwrap();
    for (rate, link) in rates.iter().zip([0, 2]) {
        assert!(
            report.directions[link].queue_full > 100,
            "the link was not saturated"
        );
        assert_near("Mbit/s", median(*rate) / 1e6, 50.0, 1.5);
    }
}

#[test]
#[serial]
fn root_lab_seeded_loss() {
    need_root();
    let lose = |seed: u64| {
        let config = pair(
            1,
            &format!(r#""delay": "1ms", "loss": 0.05, "seed": {seed}"#),
        );
        undisturbed(ATTEMPTS, &config, |lab| missing(lab, 4000))
            .unwrap()
            .0
    };
    let first = lose(1);
    assert_near("loss", first.len() as f64 / 4000.0, 0.05, 0.0125);
    assert_eq!(lose(1), first, "the same seed loses the same packets");
    assert_ne!(lose(2), first, "another seed loses others");
}

#[test]
#[serial]
fn root_lab_shared_bottleneck() {
    need_root();
    let config = example("shared-bottleneck.json");
    let paths = [
        ("server", "10.0.1.1:0", "client", "10.0.1.2:7"),
        ("server", "10.0.2.1:0", "client", "10.0.2.2:7"),
        ("server", "10.0.3.1:0", "client", "10.0.3.2:7"),
    ];
    let (rates, _) = undisturbed(ATTEMPTS, &config, |lab| saturate(lab, &paths, 24e6)).unwrap();
    let both = std::array::from_fn(|window| rates[0][window] + rates[1][window]);
    assert_near("Mbit/s of both that share", median(both) / 1e6, 20.0, 0.6);
    assert_near("Mbit/s of the third", median(rates[2]) / 1e6, 20.0, 0.6);
    // Nothing promises halves, but neither is shut out.
    let share = median(rates[0]) / (median(rates[0]) + median(rates[1]));
    assert_near("share of the first", share, 0.5, 0.4);
    // Alone, one of them has all of it.
    let (rates, _) =
        undisturbed(ATTEMPTS, &config, |lab| saturate(lab, &paths[..1], 24e6)).unwrap();
    assert_near("Mbit/s of one alone", median(rates[0]) / 1e6, 20.0, 0.6);
}

#[test]
#[serial]
fn root_lab_several_hops() {
    need_root();
    let config = example("hops.json");
    for (client, server) in [
        ("10.1.1.2:0", "10.1.3.1:7"),
        ("[fd01:1::2]:0", "[fd01:3::1]:7"),
    ] {
        let measure = |lab: &Lab| round_trips(lab, ("client", client), ("server", server), 30);
        let (times, _) = undisturbed(ATTEMPTS, &config, measure).unwrap();
        assert_near("median RTT in ms", quantile(&times, 0.5), 40.0, 1.0);
    }
    let (rates, _) = undisturbed(ATTEMPTS, &config, |lab| {
        saturate(
            lab,
            &[("client", "10.1.1.2:0", "server", "10.1.3.1:7")],
            12e6,
        )
    })
    .unwrap();
    assert_near("Mbit/s of the narrowest", median(rates[0]) / 1e6, 10.0, 0.3);
}

#[test]
#[serial]
fn root_lab_directions_and_jitter() {
    need_root();
    let shape = r#""delay": "5ms", "b_to_a": { "delay": "15ms", "jitter": "10ms" }"#;
    let measure = |lab: &Lab| round_trips(lab, ("a", "10.0.1.1:0"), ("b", "10.0.1.2:7"), 60);
    let (times, _) = undisturbed(ATTEMPTS, &pair(1, shape), measure).unwrap();
    // 20 ms, and 0 to 10 ms more.
    assert_near("least RTT in ms", times[0], 20.5, 1.0);
    assert_near("median RTT in ms", quantile(&times, 0.5), 25.0, 3.0);
    assert!(quantile(&times, 0.9) < 31.0, "{times:?}");
}
