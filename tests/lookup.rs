//! What looking up a table costs by the number of its entries: for people, by
//! `scripts/bench.sh tables`. Each packet asks for another entry, at random.

#![allow(clippy::unwrap_used)]

mod kernel;

use emptcp::datapath::Instance;
use emptcp::datapath::Options;
use emptcp::module::Hook;
use emptcp::module::Registry;
use emptcp::params::Entry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::ProgramInput;
use serde_json::Value;
use serde_json::json;

/// Packets of each measurement.
const PACKETS: u32 = 20_000;
const TYPES: [(&str, &str); 3] = [("addr", "src"), ("prefix", "src"), ("subflow", "subflow")];

/// The n-th address.
fn address(n: u32) -> [u8; 16] {
    let v4 = (10 << 24 | n).to_be_bytes();
    [&[0; 10][..], &[0xff; 2], &v4].concat().try_into().unwrap()
}

fn key(ty: &str, n: u32) -> Vec<u8> {
    let family = 4u32.to_be_bytes();
    let whole = 160u32.to_ne_bytes();
    match ty {
        "addr" => address(n).to_vec(),
        "prefix" => [&whole[..], &family, &address(n)].concat(),
        _ => {
            let ports = [40000u16.to_ne_bytes(), 80u16.to_ne_bytes()].concat();
            let to = [&[0; 10][..], &[0xff; 2], &[10, 0, 0, 2]].concat();
            [&address(n)[..], &to, &ports, &[0; 4]].concat()
        }
    }
}

/// The packet of entry n.
fn packet(base: &[u8], n: u32) -> Vec<u8> {
    let mut packet = base.to_vec();
    packet[26..30].copy_from_slice(&address(n)[12..]);
    packet
}

/// Entries in an order that no cache foresees; the same for all.
fn random(entries: u32) -> impl Iterator<Item = u32> {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    (0..PACKETS).map(move |_| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % u64::from(entries)) as u32
    })
}

fn median(mut times: Vec<u32>) -> u32 {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A chain that looks the packet up in a table of so many entries.
fn chain(ty: &str, selector: &str, entries: u32) -> Instance {
    let registry = Registry::builtin().unwrap();
    let select = match entries {
        0 => json!({ "tcp": {} }),
        _ => json!({ selector: { "table": "t" } }),
    };
    let chain = json!({ "name": "c", "select": select, "act": [{ "accept": {} }] });
    let tables = json!({ "t": { "type": ty, "size": 1_048_576 } });
    let hook = Hook::TcIngress;
    let (graph, mut tables, _) =
        kernel::compile_with(&registry, hook, &[chain], &tables, true).unwrap();
    let all = (0..entries).map(|n| -> Entry { (key(ty, n), vec![1]) });
    tables[0].elements = all.collect();
    let options = Options::default();
    Instance::load_with_tables(&registry, kernel::version(), graph, &tables, options).unwrap()
}

fn time_chain(instance: &Instance, base: &[u8], entries: u32) -> u32 {
    let time = |n| {
        instance
            .run(&packet(base, n), Some(0), 1)
            .unwrap()
            .1
            .nanoseconds
    };
    median(random(entries).map(time).collect())
}

/// A program that does nothing but the look-up, and one that does not even that.
fn time_plain(ty: &str, base: &[u8], entries: u32) -> [u32; 2] {
    let folder = kernel::Folder::new("lookup");
    let object = folder.0.join("lookup.o");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/lookup.bpf.c");
    kernel::compile_program(source.as_ref(), &object);
    let object = libbpf_rs::ObjectBuilder::default()
        .open_file(&object)
        .unwrap()
        .load()
        .unwrap();
    let map = object.maps().find(|m| m.name() == ty).unwrap();
    for n in 0..entries {
        map.update(&key(ty, n), &1u64.to_ne_bytes(), MapFlags::ANY)
            .unwrap();
    }
    ["nothing", &format!("plain_{ty}")].map(|name| {
        let program = object.progs_mut().find(|p| p.name() == name).unwrap();
        let time = |n| {
            let packet = packet(base, n);
            let mut out = vec![0; packet.len() + 512];
            let mut input = ProgramInput {
                data_in: Some(&packet),
                ..Default::default()
            };
            input.data_out = Some(&mut out);
            let ran = program.test_run(input).unwrap();
            if name != "nothing" {
                assert_eq!(ran.return_value, 1, "found");
            }
            ran.duration.as_nanos() as u32
        };
        median(random(entries).map(time).collect())
    })
}

#[test]
#[ignore = "a measurement: scripts/bench.sh tables"]
fn root_bench_tables() {
    let base = Packet::new().build(Family::Ip4).unwrap().bytes;
    let mut rows: Vec<Value> = Vec::new();
    for (ty, selector) in TYPES {
        for entries in [1, 10_000, 100_000, 1_000_000] {
            let without = time_chain(&chain(ty, selector, 0), &base, entries);
            let with = time_chain(&chain(ty, selector, entries), &base, entries);
            let [nothing, plain] = time_plain(ty, &base, entries);
            let (step, plain) = (with as i64 - without as i64, plain as i64 - nothing as i64);
            println!(
                "{ty:8} {entries:8} entries: step {step} ns more than one without a table, plain look-up {plain} ns"
            );
            rows.push(
                json!({ "type": ty, "entries": entries, "step_ns": step, "plain_ns": plain }),
            );
        }
    }
    println!("{}", Value::from(rows));
}
