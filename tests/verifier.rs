//! How much work the verifier has with each module: a change that makes it more by a
//! quarter must be meant. Counts of the kernel on which the baseline was taken only.
//!
//! Take a new baseline with `EMPTCP_BASELINE=write cargo test --test verifier root_`.

#![allow(clippy::unwrap_used)]

mod kernel;

use std::collections::BTreeMap;
use std::path::Path;

use emptcp::module::Family;
use emptcp::module::Hook;
use emptcp::module::KernelVersion;
use emptcp::module::Registry;

/// Instructions by kernel, module and family.
type Baseline = BTreeMap<String, BTreeMap<String, BTreeMap<String, u32>>>;

/// Stands for the entry program; no name of a module.
const ENTRY: &str = "(entry)";

/// Instructions that the verifier processed, by module or entry program, and family.
fn counts() -> BTreeMap<String, BTreeMap<String, u32>> {
    let registry = Registry::builtin().unwrap();
    let mut counts: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    for module in registry.modules() {
        if module.since > kernel::version() {
            continue;
        }
        // Both hooks of tc run the same program.
        let both = module.hooks.contains(&Hook::TcIngress);
        let other = |h: &&Hook| !both || **h != Hook::TcEgress;
        for hook in module.hooks.iter().filter(other) {
            let (loaded, node) = kernel::graph_of(&registry, module, *hook);
            let programs = kernel::programs(&loaded.instance, loaded.graph.nodes.len());
            let family = match Family::from(*hook) {
                Family::Xdp => "xdp",
                Family::Tc => "tc",
            };
            let of_module = counts.entry(module.name.clone()).or_default();
            of_module.insert(family.to_owned(), programs[node].verified_insns);
            let entry = kernel::entry_program(&loaded.instance).verified_insns;
            let of_entry = counts.entry(ENTRY.to_owned()).or_default();
            let most = of_entry.entry(family.to_owned()).or_default();
            *most = entry.max(*most);
        }
    }
    counts
}

/// What has grown too much, or has no baseline.
fn compare(
    found: &BTreeMap<String, BTreeMap<String, u32>>,
    baseline: &BTreeMap<String, BTreeMap<String, u32>>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, families) in found {
        for (family, count) in families {
            match baseline.get(module).and_then(|f| f.get(family)) {
                None => wrong.push(format!("{module} ({family}): {count}, not in the baseline")),
                Some(before) if count * 4 > before * 5 => wrong.push(format!(
                    "{module} ({family}): {count} instructions, were {before}"
                )),
                Some(_) => {}
            }
        }
    }
    wrong
}

#[test]
fn root_verified_instructions_have_not_grown() {
    let version = kernel::version();
    if version < KernelVersion(5, 16) {
        kernel::skipped(&format!(
            "Linux {version} does not tell how many instructions it verified"
        ));
        return;
    }
    let found = counts();
    println!("Linux {version}: {found:?}");
    let least = found.values().flat_map(|f| f.values()).min();
    assert!(least.is_some_and(|n| *n > 20), "{found:?}");

    let mut baseline: Baseline =
        serde_json::from_str(include_str!("verifier-baseline.json")).unwrap();
    if std::env::var_os("EMPTCP_BASELINE").is_some_and(|v| v == "write") {
        baseline.insert(version.to_string(), found);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verifier-baseline.json");
        let text = serde_json::to_string_pretty(&baseline).unwrap();
        std::fs::write(path, text + "\n").unwrap();
        return;
    }
    match baseline.get(&version.to_string()) {
        None => kernel::skipped(&format!("there is no baseline of Linux {version}")),
        Some(baseline) => {
            let wrong = compare(&found, baseline);
            assert!(
                wrong.is_empty(),
                "{}\nIf that is meant: EMPTCP_BASELINE=write cargo test --test verifier root_",
                wrong.join("\n")
            );
        }
    }
}

#[test]
fn more_than_a_quarter_is_too_much() {
    let counts = |n| BTreeMap::from([("m".to_owned(), BTreeMap::from([("tc".to_owned(), n)]))]);
    assert_eq!(compare(&counts(125), &counts(100)), Vec::<String>::new());
    assert_eq!(compare(&counts(50), &counts(100)), Vec::<String>::new());
    assert_eq!(
        compare(&counts(126), &counts(100)),
        ["m (tc): 126 instructions, were 100"]
    );
    assert_eq!(
        compare(&counts(1), &BTreeMap::new()),
        ["m (tc): 1, not in the baseline"]
    );
}
