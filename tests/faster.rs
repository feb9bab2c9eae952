// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The schedulers of `include/emptcp/faster.h` against the formulas of their papers, in floating
//! point, on random numbers; and what the selector that asks them costs the verifier.

#![allow(clippy::unwrap_used)]

mod kernel;

use emptcp::datapath::Options;
use emptcp::module::Hook;
use emptcp::module::Registry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use emptcp_test::packet::Tcp;
use fastrand::Rng;
use kernel::Loaded;
use serde_json::json;

/// `struct emptcp_path`.
#[derive(Clone, Copy, Debug)]
struct Path {
    srtt: u32,
    deviation: u32,
    cwnd: u32,
    ssthresh: u32,
    in_flight: u32,
    mss: u32,
    unsent: u32,
}

impl Path {
    /// `slower`: times the round trip of something that is fast.
    fn random(random: &mut Rng, slower: u32) -> Self {
        let srtt = random.u32(200..60_000) * slower;
        let cwnd = 1 << random.u32(0..12) | random.u32(1..8);
        Self {
            srtt,
            deviation: random.u32(0..=srtt / 2),
            cwnd,
            ssthresh: [cwnd / 2, cwnd * random.u32(1..30), 0x7fff_ffff][random.usize(..3)],
            in_flight: random.u32(0..=cwnd),
            mss: random.u32(536..9000),
            unsent: 0,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let words = [
            self.srtt,
            self.deviation,
            self.cwnd,
            self.ssthresh,
            self.in_flight,
            self.mss,
            self.unsent,
        ];
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

#[derive(Debug)]
struct Case {
    fast: Path,
    slow: Path,
    queued: u64,
    window: u64,
    margin: u64,
}

/// Whether one side is less, and how far they are apart.
fn less(a: f64, b: f64) -> (bool, f64) {
    (a < b, (a - b).abs() / a.max(b).max(1.0))
}

impl Case {
    fn random(random: &mut Rng) -> Self {
        let slower = random.u32(1..12);
        let (queued, window) = (random.u32(1..25), random.u32(10..24));
        Self {
            fast: Path::random(random, 1),
            slow: Path::random(random, slower),
            queued: random.u64(0..1 << queued),
            window: random.u64(0..1 << window),
            margin: [0, 64][random.usize(..2)],
        }
    }

    fn packet(&self) -> Vec<u8> {
        let mut payload = [self.fast.bytes(), self.slow.bytes()].concat();
        for word in [self.queued, self.window, self.margin] {
            payload.extend(word.to_ne_bytes());
        }
        let packet = Packet::new()
            .tcp(Tcp::new(40000, 80))
            .payload(payload.as_slice());
        packet.build(Family::Ip4).unwrap().bytes
    }

    fn margin(&self) -> f64 {
        1.0 + self.margin as f64 / 256.0
    }

    /// Algorithm 1 of Lim et al., with whole windows and those of a slow start; whether it is so
    /// narrow that rounding decides.
    fn ecf(&self) -> (bool, bool) {
        let (fast, slow) = (&self.fast, &self.slow);
        let segments = (self.queued / u64::from(fast.mss)) as f64;
        let delta = f64::from(fast.deviation.max(slow.deviation));
        let (mut window, mut rounds) = (f64::from(fast.cwnd), 1.0);
        let mut left = segments.max(window);
        while window < f64::from(fast.ssthresh) && left > window && rounds < 13.0 {
            left -= window;
            window = (2.0 * window).min(f64::from(fast.ssthresh));
            rounds += 1.0;
        }
        let (fast_rtt, slow_rtt) = (f64::from(fast.srtt), f64::from(slow.srtt));
        let first = less(
            (rounds + left / window) * fast_rtt,
            self.margin() * (slow_rtt + delta),
        );
        let cwnd = f64::from(slow.cwnd);
        let second = less(segments.max(cwnd) / cwnd * slow_rtt, 2.0 * fast_rtt + delta);
        (first.0 && !second.0, first.1.min(second.1) < 1e-6)
    }

    /// Equations 1 and 2 of Ferlin et al.
    fn blest(&self) -> (bool, bool) {
        let (fast, slow) = (&self.fast, &self.slow);
        let rtts = (f64::from(slow.srtt) / f64::from(fast.srtt)).clamp(1.0, 256.0);
        let sends = f64::from(fast.mss) * (f64::from(fast.cwnd) + (rtts - 1.0) / 2.0) * rtts;
        let blocks = f64::from(slow.mss) * (f64::from(slow.in_flight) + 1.0);
        let space = (self.window as f64 - blocks).max(0.0);
        let (waits, apart) = less(space, self.margin() * sends);
        // Round trips are counted in 256ths.
        (waits, apart < 0.02)
    }
}

#[test]
fn root_schedulers_are_those_of_the_papers() {
    let registry = kernel::registry_with(&["toolkit_faster"]);
    let chain = json!({ "name": "faster", "act": [{ "toolkit_faster": {} }] });
    let loaded = Loaded::new(&registry, Hook::TcIngress, &[chain], Options::default()).unwrap();
    let mut random = Rng::with_seed(7);
    let mut seen = [[0; 2]; 2];
    for number in 0..20_000 {
        let case = Case::random(&mut random);
        loaded.instance.run(&case.packet(), None, 1).unwrap();
        let answers = loaded.instance.state("answers").unwrap().remove(0).1;
        let word = |n: usize| u32::from_ne_bytes(answers[4 * n..][..4].try_into().unwrap());
        assert_eq!(word(2), 1, "{number}: not read");
        for (n, (waits, narrow)) in [case.ecf(), case.blest()].into_iter().enumerate() {
            let found = word(n);
            assert!(found <= 1, "{number}: {found}");
            assert!(
                narrow || (found == 1) == waits,
                "{number}: {} {found}: {case:?}",
                ["ecf", "blest"][n]
            );
            seen[n][found as usize] += 1;
        }
    }
    println!("ecf, blest: {seen:?}");
    assert!(seen.iter().flatten().all(|n| *n > 1000), "{seen:?}");
}

/// No number makes a product leave its 64 bits: those that are out of bounds count as the bound.
#[test]
fn root_schedulers_know_bounds() {
    let registry = kernel::registry_with(&["toolkit_faster"]);
    let chain = json!({ "name": "faster", "act": [{ "toolkit_faster": {} }] });
    let loaded = Loaded::new(&registry, Hook::TcIngress, &[chain], Options::default()).unwrap();
    let path = |srtt, cwnd, mss| Path {
        srtt,
        deviation: 0,
        cwnd,
        ssthresh: u32::MAX,
        in_flight: 0,
        mss,
        unsent: 0,
    };
    let largest = path(u32::MAX, u32::MAX, u32::MAX);
    for (fast, slow, queued, window, wanted) in [
        // Twice as long as the slower one takes, and it has a window.
        (largest, largest, u64::MAX >> 1, u64::MAX >> 1, [0, 1]),
        (largest, largest, 0, 0, [0, 1]),
        (path(0, 0, 0), path(0, 0, 0), 0, 1 << 29, [0, 0]),
        (path(1, 1, 1), largest, 0, 0, [1, 1]),
        (path(1, 10, 1460), path(3, 10, 1460), 0, 1 << 20, [1, 0]),
    ] {
        let case = Case {
            fast,
            slow,
            queued,
            window,
            margin: 256,
        };
        loaded.instance.run(&case.packet(), None, 1).unwrap();
        let answers = loaded.instance.state("answers").unwrap().remove(0).1;
        let found = [0, 4].map(|at| u32::from_ne_bytes(answers[at..][..4].try_into().unwrap()));
        assert_eq!(found, wanted, "{case:?}");
    }
}

/// The verifier goes through it in few instructions; and sockets are given back on each way, also
/// where the step is one of several in a program.
#[test]
fn root_selector_alone_and_joined() {
    let registry = Registry::builtin().unwrap();
    let modules = registry.modules();
    let module = modules
        .iter()
        .find(|m| m.name == "wait_for_faster")
        .unwrap();
    if module.since > kernel::version() {
        kernel::skipped("bpf_skc_to_mptcp_sock() is newer");
        return;
    }
    let (loaded, node) = kernel::graph_of(&registry, module, Hook::TcIngress);
    let programs = kernel::programs(&loaded.instance, loaded.graph.nodes.len());
    let verified = programs[node].verified_insns;
    println!("{verified} instructions");
    assert!((1..60_000).contains(&verified), "{verified}");
    for hook in [Hook::TcIngress, Hook::TcEgress] {
        for by in ["ecf", "blest"] {
            let asks = json!({ "wait_for_faster": { "by": by } });
            let again = json!({ "wait_for_faster": { "by": by, "hold": "1s" } });
            let chain = json!({ "name": "both", "act": [{ "accept": {} }],
                "select": { "any": [{ "all": [{ "mptcp": {} }, asks, { "dport": { "in": [80] } }] },
                    { "not": again }] } });
            let loaded = Loaded::new(&registry, hook, &[chain], Options::default());
            let loaded = loaded.unwrap_or_else(|e| panic!("{hook} {by}: {e}"));
            let packet = Packet::new().build(Family::Ip6).unwrap().bytes;
            loaded.instance.run(&packet, None, 100).unwrap();
        }
    }
}
