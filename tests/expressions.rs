//! What can be selected: random expressions, and lists of any length, in the kernel
//! and by plain evaluation.

#![allow(clippy::unwrap_used)]

mod kernel;

use emptcp::datapath::Options;
use emptcp::module::Hook;
use emptcp::module::Registry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use emptcp_test::packet::Tcp;
use kernel::Loaded;
use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest::test_runner::RngAlgorithm;
use proptest::test_runner::TestRng;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use serde_json::json;

/// What a chain can ask for, as far as these tests go.
#[derive(Clone, Debug)]
enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    /// First and last port.
    Sport(u16, u16),
    Dport(u16, u16),
    /// Numbers of flags that are set, and of those that are not.
    Flags(u8, u8),
}

/// Names of the flags by their bits.
const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

fn flags(bits: u8) -> Vec<&'static str> {
    (0..8)
        .filter(|b| bits >> b & 1 == 1)
        .map(|b| FLAGS[b])
        .collect()
}

impl Expr {
    fn json(&self) -> Value {
        let list = |parts: &[Expr]| -> Value { parts.iter().map(Expr::json).collect() };
        match self {
            Expr::All(parts) => json!({ "all": list(parts) }),
            Expr::Any(parts) => json!({ "any": list(parts) }),
            Expr::Not(part) => json!({ "not": part.json() }),
            Expr::Sport(a, b) => json!({ "sport": { "in": [format!("{a}-{b}")] } }),
            Expr::Dport(a, b) => json!({ "dport": { "in": [format!("{a}-{b}")] } }),
            Expr::Flags(set, unset) => {
                json!({ "tcp": { "flags": flags(*set), "not_flags": flags(*unset) } })
            }
        }
    }

    fn matches(&self, sport: u16, dport: u16, flags: u8) -> bool {
        let part = |part: &Expr| part.matches(sport, dport, flags);
        match self {
            Expr::All(parts) => parts.iter().all(part),
            Expr::Any(parts) => parts.iter().any(part),
            Expr::Not(inner) => !part(inner),
            Expr::Sport(a, b) => (a..=b).contains(&&sport),
            Expr::Dport(a, b) => (a..=b).contains(&&dport),
            Expr::Flags(set, unset) => flags & set == *set && flags & unset == 0,
        }
    }

    /// Selectors that it names.
    fn steps(&self) -> usize {
        match self {
            Expr::All(parts) | Expr::Any(parts) => parts.iter().map(Expr::steps).sum(),
            Expr::Not(part) => part.steps(),
            _ => 1,
        }
    }
}

/// Few ports and flags, so that there are hits.
const PORTS: std::ops::Range<u16> = 0..6;

fn expressions() -> impl Strategy<Value = Expr> {
    let range = (PORTS, PORTS).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let leaf = prop_oneof![
        range.clone().prop_map(|(a, b)| Expr::Sport(a, b)),
        range.prop_map(|(a, b)| Expr::Dport(a, b)),
        (0u8..4, 0u8..4).prop_map(|(set, unset)| Expr::Flags(set, unset & !set)),
    ];
    leaf.prop_recursive(5, 48, 5, |inner| {
        let list = prop_oneof![
            9 => prop::collection::vec(inner.clone(), 2..6),
            1 => prop::collection::vec(inner.clone(), 0..2),
        ];
        prop_oneof![
            3 => list.clone().prop_map(Expr::All),
            3 => list.prop_map(Expr::Any),
            1 => inner.prop_map(|part| Expr::Not(Box::new(part))),
        ]
    })
}

/// Expressions, each with packets: family, ports, flags.
#[test]
fn root_random_expressions_are_as_evaluated() {
    const CASES: u32 = 200;
    let registry = Registry::builtin().unwrap();
    let packets = prop::collection::vec((any::<bool>(), PORTS, PORTS, 0u8..4), 24);
    let hooks = (prop::sample::select(&Hook::ALL[..]), any::<bool>());
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let totals = std::cell::Cell::new((0u64, 0u64, 0usize, 0usize));
    let result = runner.run(
        &(expressions(), packets, hooks),
        |(expr, packets, (hook, join))| {
            let select = expr.json();
            let chain = json!({ "name": "t", "select": select, "act": [{ "accept": {} }] });
            let options = Options {
                join,
                ..Options::default()
            };
            let mut loaded =
                Loaded::new(&registry, hook, &[chain], options).map_err(TestCaseError::fail)?;
            let actor = loaded
                .nodes(0, emptcp::module::Kind::Actor)
                .first()
                .copied();
            let (mut runs, mut matches, mut most, mut steps) = totals.get();
            steps += expr.steps();
            most = most.max(loaded.graph.nodes.len());
            for (six, sport, dport, flags) in packets {
                let mut tcp = Tcp::new(sport, dport);
                tcp.flags = flags;
                let family = Family::ALL[usize::from(six)];
                let packet = Packet::new().tcp(tcp).build(family).unwrap().bytes;
                let done = loaded.run(&packet, 0).map_err(TestCaseError::fail)?;
                let matched = actor.map_or(0, |node| done.counters[node].matched);
                let wanted = expr.matches(sport, dport, flags);
                prop_assert_eq!(
                    matched,
                    u64::from(wanted),
                    "{} at {}: {} to {}, flags {:?}",
                    expr.json(),
                    hook,
                    sport,
                    dport,
                    self::flags(flags)
                );
                prop_assert!(done.reasons.is_empty(), "{:?}", done.reasons);
                prop_assert_eq!(&done.run.packet, &packet);
                runs += 1;
                matches += matched;
            }
            totals.set((runs, matches, most, steps));
            Ok(())
        },
    );
    let (runs, matches, most, steps) = totals.get();
    println!(
        "{CASES} expressions of {steps} selectors, graphs of up to {most}: {matches} of {runs} packets match"
    );
    result.unwrap_or_else(|e| panic!("{e}"));
    assert!(matches > runs / 10 && runs - matches > runs / 10 && most > 8);
}

/// Addresses and prefixes at the edges of both families.
const PREFIXES: [&str; 18] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.0.0.1/32",
    "10.0.0.0/31",
    "128.0.0.0/1",
    "0.0.0.0/1",
    "255.255.255.255/32",
    "2001:db8::/32",
    "2001:db8:1:2:3:4:a00:1/128",
    "2001:db8:1:2:3:4:a00:0/127",
    "8000::/1",
    "::/1",
    "::/80",
    "::/95",
    "::fffe:0:0/95",
    "::/96",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
];
const ADDRESSES: [(Family, &str); 13] = [
    (Family::Ip4, "10.0.0.1"),
    (Family::Ip4, "10.0.0.2"),
    (Family::Ip4, "0.0.0.0"),
    (Family::Ip4, "128.0.0.0"),
    (Family::Ip4, "255.255.255.255"),
    (Family::Ip4, "192.0.2.130"),
    (Family::Ip6, "2001:db8:1:2:3:4:a00:1"),
    (Family::Ip6, "2001:db8:1:2:3:4:a00:2"),
    (Family::Ip6, "::"),
    (Family::Ip6, "::ffff:10.0.0.1"),
    (Family::Ip6, "::10.0.0.1"),
    (Family::Ip6, "8000::"),
    (Family::Ip6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
];

/// Whether a prefix holds an address, by the numbers; a family never holds the other.
fn holds(prefix: &str, family: Family, address: &str) -> bool {
    let (base, bits) = prefix.split_once('/').unwrap();
    let bits: u32 = bits.parse().unwrap();
    match (family, base.parse::<std::net::IpAddr>().unwrap()) {
        (Family::Ip4, std::net::IpAddr::V4(base)) => {
            let address: std::net::Ipv4Addr = address.parse().unwrap();
            (u32::from(address) ^ u32::from(base))
                .checked_shr(32 - bits)
                .unwrap_or(0)
                == 0
        }
        (Family::Ip6, std::net::IpAddr::V6(base)) => {
            let address: std::net::Ipv6Addr = address.parse().unwrap();
            (u128::from(address) ^ u128::from(base))
                .checked_shr(128 - bits)
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}

/// The list in the parameters and the table for a longer one say the same.
#[test]
fn root_lists_and_their_tables_agree() {
    let registry = Registry::builtin().unwrap();
    let (mut runs, mut hits) = (0, 0);
    // Nothing that is asked for: documentation addresses.
    let filling = |n: usize| format!("203.0.113.{n}/32");
    let longer = |item: &str| {
        let mut list: Vec<String> = (0..9).map(filling).collect();
        list.insert(4, item.to_owned());
        list
    };
    for hook in Hook::ALL {
        for (module, source) in [("src", true), ("dst", false)] {
            for prefix in PREFIXES {
                let loaded = |list: Vec<String>| {
                    let select = json!({ module: { "in": list } });
                    let chain = json!({ "name": "t", "select": select, "act": [{ "accept": {} }] });
                    let loaded = Loaded::new(&registry, hook, &[chain], Options::default());
                    let loaded = loaded.unwrap();
                    let tables = !loaded.graph.nodes[0].params.tables.is_empty();
                    (loaded, tables)
                };
                let (mut inline, is_table) = loaded(vec![prefix.to_owned()]);
                assert!(!is_table);
                let (mut table, is_table) = loaded(longer(prefix));
                assert!(is_table);
                for (family, address) in ADDRESSES {
                    let (from, to) = match source {
                        true => (address, "d"),
                        false => ("d", address),
                    };
                    let packet = Packet::new().hosts(from, to).build(family).unwrap().bytes;
                    let matched = |loaded: &mut Loaded| {
                        loaded.run(&packet, 0).unwrap().counters[0].matched == 1
                    };
                    let wanted = holds(prefix, family, address);
                    let what = format!("{prefix} {address} {module} at {hook}");
                    assert_eq!(matched(&mut inline), wanted, "{what}, in the parameters");
                    assert_eq!(matched(&mut table), wanted, "{what}, in a table");
                    runs += 1;
                    hits += usize::from(wanted);
                }
            }
        }
        for (module, source) in [("sport", true), ("dport", false)] {
            let ranges = ["0-1", "80", "1000-1999", "32767-32768", "65535"];
            let mut list: Vec<String> = (0..9).map(|n| (40000 + 2 * n).to_string()).collect();
            list.extend(ranges.map(str::to_owned));
            let wanted = |port: u16| {
                matches!(port, 0..=1 | 80 | 1000..=1999 | 32767..=32768 | 65535)
                    || (40000..=40016).contains(&port) && port.is_multiple_of(2)
            };
            let chain = json!({
                "name": "t", "select": { module: { "in": list } }, "act": [{ "accept": {} }],
            });
            let mut loaded = Loaded::new(&registry, hook, &[chain], Options::default()).unwrap();
            assert!(!loaded.graph.nodes[0].params.tables.is_empty());
            let edges = [
                0, 1, 2, 79, 80, 81, 336, 999, 1000, 1999, 2000, 20480, 32766, 32767,
            ];
            let more = [32768, 32769, 40000, 40001, 40016, 40018, 65534, 65535];
            for port in edges.into_iter().chain(more) {
                let tcp = match source {
                    true => Tcp::new(port, 7),
                    false => Tcp::new(7, port),
                };
                for family in Family::ALL {
                    let packet = Packet::new().tcp(tcp.clone()).build(family).unwrap().bytes;
                    let done = loaded.run(&packet, 0).unwrap();
                    let matched = done.counters[0].matched == 1;
                    assert_eq!(matched, wanted(port), "{module} {port} at {hook}");
                    runs += 1;
                }
            }
        }
    }
    println!("{runs} runs, {hits} prefixes held");
}
