//! What the kernel's JIT makes of the steps: a tail call is a direct jump to the
//! next program, never one through a register (which costs 15 ns with retpolines).

#![allow(clippy::unwrap_used)]

mod kernel;

use std::collections::BTreeMap;
use std::fs;

use emptcp::datapath::Options;
use emptcp::datapath::Verdict;
use emptcp::graph::Target;
use emptcp::module::Hook;
use emptcp::module::Kind;
use emptcp::module::Registry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use emptcp_test::packet::Tcp;
use kernel::Loaded;
use libbpf_rs::MapCore as _;
use libbpf_rs::query::ProgramInfo;
use serde_json::Value;
use serde_json::json;

/// Why the dump cannot be judged here.
fn cannot_judge() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("what a direct jump looks like is known for x86-64 only".to_owned());
    }
    let sysctl = |name: &str| fs::read_to_string(format!("/proc/sys/net/core/{name}"));
    // Where the file does not exist, the JIT is always on and never hardened.
    if sysctl("bpf_jit_enable").is_ok_and(|v| v.trim() == "0") {
        return Some("the JIT is off".to_owned());
    }
    if sysctl("bpf_jit_harden").is_ok_and(|v| v.trim() == "2") {
        return Some("net.core.bpf_jit_harden=2 makes every tail call indirect".to_owned());
    }
    None
}

/// Functions of the kernel that jump to where a register points, by address.
fn thunks() -> BTreeMap<u64, (u64, String)> {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap();
    let thunks = symbols.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let name = words.nth(1)?.split('\t').next()?;
        let is = name.contains("x86_indirect") && address != 0;
        // An array of them has one for each register.
        let size = if name.ends_with("array") { 16 * 32 } else { 1 };
        is.then(|| (address, (address + size, name.to_owned())))
    });
    thunks.collect()
}

/// Places to which the calls and jumps of a program lead, with those which only look like one.
fn jumps(program: &ProgramInfo) -> Vec<u64> {
    let code = &program.jited_prog_insns;
    let base = program.jited_ksyms[0] as u64;
    let windows = code.windows(5).enumerate();
    windows
        .filter(|(_, bytes)| bytes[0] == 0xe8 || bytes[0] == 0xe9)
        .map(|(at, bytes)| {
            let by = i32::from_le_bytes(*bytes[1..].first_chunk().unwrap());
            (base + at as u64 + 5).wrapping_add_signed(by.into())
        })
        .collect()
}

/// What in a program is an indirect tail call.
fn indirect(program: &ProgramInfo, thunks: &BTreeMap<u64, (u64, String)>) -> Vec<String> {
    let mut found = Vec::new();
    for (at, bytes) in program.jited_prog_insns.windows(11).enumerate() {
        // mov rcx, [rsi + rdx*8 + ...]; test rcx, rcx: the program in the slot of rdx,
        // emit_bpf_tail_call_indirect() of arch/x86/net/bpf_jit_comp.c.
        if bytes[..4] == [0x48, 0x8b, 0x8c, 0xd6] && bytes[8..] == [0x48, 0x85, 0xc9] {
            found.push(format!("a look-up of the slot at {at:#x}"));
        }
    }
    for target in jumps(program) {
        if let Some((_, (end, name))) = thunks.range(..=target).next_back()
            && target < *end
        {
            found.push(format!("a jump to {name}"));
        }
    }
    found
}

/// Whether a jump of the program leads to the other, behind what that one begins with.
fn leads_to(program: &ProgramInfo, other: &ProgramInfo) -> bool {
    let start = other.jited_ksyms[0] as u64;
    let begin = start..start + u64::from(other.jited_func_lens[0]).min(64);
    jumps(program).iter().any(|target| begin.contains(target))
}

/// Successors of a step that every module of its kind has: nodes that are all different. That of
/// an error is not among them, few modules have any.
fn successors(loaded: &Loaded, node: usize) -> Vec<usize> {
    let node = &loaded.graph.nodes[node];
    let mut nodes: Vec<usize> = [node.match_to, node.miss_to]
        .into_iter()
        .filter_map(|target| match target {
            Target::Node(n) => Some(n),
            Target::Pass | Target::Drop => None,
        })
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

#[test]
fn root_every_tail_call_is_a_direct_jump() {
    if let Some(why) = cannot_judge() {
        kernel::skipped(&why);
        return;
    }
    let registry = Registry::builtin().unwrap();
    let thunks = thunks();
    assert!(!thunks.is_empty(), "no thunks in /proc/kallsyms");
    let mut steps = 0;
    for module in registry.modules() {
        if module.since > kernel::version() {
            continue;
        }
        // The tracker comes before these, too, and takes an emulated verifier a minute: it is
        // tried once, as a module.
        if module.flags.tracked && kernel::in_guest() {
            continue;
        }
        for hook in module.hooks.iter().filter(|h| **h != Hook::TcEgress) {
            let (loaded, node) = kernel::graph_of(&registry, module, *hook);
            let programs = kernel::programs(&loaded.instance, loaded.graph.nodes.len());
            let program = &programs[node];
            assert!(
                !program.jited_prog_insns.is_empty(),
                "{}: no code",
                module.name
            );
            let next = successors(&loaded, node);
            let ways = match (module.kind, module.flags.ends) {
                (Kind::Selector, _) => 2,
                (Kind::Actor, false) => 1,
                (Kind::Actor, true) => 0,
            };
            assert_eq!(next.len(), ways, "{}: {:?}", module.name, loaded.graph);
            for other in next {
                assert!(
                    leads_to(program, &programs[other]),
                    "{} at {hook}: no direct jump to {}",
                    module.name,
                    loaded.graph.nodes[other].key
                );
            }
            let entry = kernel::entry_program(&loaded.instance);
            assert!(leads_to(&entry, &programs[0]), "entry program at {hook}");
            for program in [program, &entry] {
                let found = indirect(program, &thunks);
                assert!(found.is_empty(), "{} at {hook}: {found:?}", module.name);
            }
            steps += 1;
        }
    }
    println!("{steps} steps, {} thunks", thunks.len());
}

#[test]
fn root_joined_steps_are_few_programs_with_direct_jumps() {
    if let Some(why) = cannot_judge() {
        kernel::skipped(&why);
        return;
    }
    let registry = Registry::builtin().unwrap();
    let thunks = thunks();
    let select: Vec<Value> = (0..40)
        .map(|n| json!({ "sport": { "in": [n, 100 + n] } }))
        .collect();
    let chain = json!({ "name": "long", "select": { "any": select }, "act": [{ "accept": {} }] });
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let loaded = Loaded::new(
            &registry,
            hook,
            std::slice::from_ref(&chain),
            Options::default(),
        )
        .unwrap();
        let nodes = loaded.graph.nodes.len();
        assert_eq!(nodes, 41);
        let slots = loaded.instance.array().max_entries() as usize;
        assert!((2..=8).contains(&slots), "{hook}: {slots} programs");
        let programs = kernel::programs(&loaded.instance, slots);
        assert!(leads_to(&programs[0], &programs[1]), "{hook}");
        for program in &programs {
            let found = indirect(program, &thunks);
            assert!(found.is_empty(), "{hook}: {found:?}");
        }
    }
}

#[test]
fn root_steps_that_cannot_be_joined_are_programs_of_their_own() {
    if kernel::in_guest() {
        kernel::skipped("there is no compiler");
        return;
    }
    let registry = kernel::registry_with(&["deep"]);
    let select = json!({ "all": [{ "deep": {} }, { "tcp": { "flags": ["ack"] } }] });
    let chain = json!({ "name": "deep", "select": select, "act": [{ "drop": {} }] });
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let chains = [chain.clone()];
        let mut loaded = Loaded::new(&registry, hook, &chains, Options::default()).unwrap();
        assert_eq!(loaded.instance.array().max_entries(), 3, "{hook}");
        let mut tcp = Tcp::new(1, 2);
        tcp.flags = 0x10;
        let packet = Packet::new().tcp(tcp).build(Family::ALL[0]).unwrap().bytes;
        let done = loaded.run(&packet, 0).unwrap();
        assert_eq!(done.verdict, Verdict::Drop, "{hook}: {done:?}");
    }
}

/// What looks for indirect tail calls finds them where they are.
#[test]
fn root_control_indirect_tail_calls_are_found() {
    if let Some(why) = cannot_judge() {
        kernel::skipped(&why);
        return;
    }
    let names = ["indirect_merged", "indirect_variable"];
    let registry = kernel::registry_with(&names);
    let thunks = thunks();
    for name in names {
        let module = registry.modules().iter().find(|m| m.name == name).unwrap();
        for hook in [Hook::Xdp, Hook::TcIngress] {
            let (loaded, node) = kernel::graph_of(&registry, module, hook);
            let programs = kernel::programs(&loaded.instance, loaded.graph.nodes.len());
            let found = indirect(&programs[node], &thunks);
            println!("{name} at {hook}: {found:?}");
            assert!(
                found.iter().any(|f| f.starts_with("a look-up")),
                "{name} at {hook}"
            );
            let retpolines =
                fs::read_to_string("/sys/devices/system/cpu/vulnerabilities/spectre_v2")
                    .is_ok_and(|v| v.contains("Retpolines"));
            assert!(
                !retpolines || found.iter().any(|f| f.starts_with("a jump to")),
                "{name} at {hook}"
            );
        }
    }
}
