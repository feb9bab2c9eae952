//! What the tests share that run the programs in the kernel: from chains in JSON
//! to an instance, and what one packet did to its counters.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;

use emptcp::datapath::Counters;
use emptcp::datapath::Instance;
use emptcp::datapath::Options;
use emptcp::datapath::TestRun;
use emptcp::datapath::Verdict;
use emptcp::graph;
use emptcp::graph::Graph;
use emptcp::module::Family;
use emptcp::module::Hook;
use emptcp::module::KernelVersion;
use emptcp::module::Kind;
use emptcp::module::Registry;
use emptcp::params::AnyInterface;
use emptcp::policy;
use emptcp::policy::Fragment;
use serde_json::Value;
use serde_json::json;

/// Version of the running kernel.
pub fn version() -> KernelVersion {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.parse().unwrap()
}

/// In a guest of scripts/vmtest.sh there are no tools but those of the tests.
pub fn in_guest() -> bool {
    std::env::var_os("EMPTCP_TEST_GUEST").is_some_and(|v| v == "1")
}

/// The hooks by their names.
pub fn hook(name: &str) -> Hook {
    name.parse().unwrap()
}

/// The graph of chains, objects of JSON without hook and interfaces.
pub fn compile(registry: &Registry, hook: Hook, chains: &[Value]) -> Result<Graph, String> {
    let chains: Vec<Value> = chains
        .iter()
        .map(|chain| {
            let mut chain = chain.clone();
            chain["hook"] = hook.name().into();
            chain["interfaces"] = json!(["test0"]);
            chain
        })
        .collect();
    let text = json!({ "version": 1, "chains": chains }).to_string();
    let lines = |errors: Vec<policy::Diagnostic>| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        format!("{}\n{text}", lines.join("\n"))
    };
    let fragment = Fragment {
        name: "test.json".to_owned(),
        bytes: text.clone().into_bytes(),
    };
    let policy = policy::parse(&[fragment]).map_err(lines)?;
    let bound = graph::bind(&policy, registry.modules(), &AnyInterface).map_err(lines)?;
    let bound: Vec<_> = bound.iter().collect();
    Ok(graph::compile(hook, &bound, registry.modules()))
}

/// A loaded graph and the nodes in it.
#[derive(Debug)]
pub struct Loaded {
    pub instance: Instance,
    pub graph: Graph,
    tc: bool,
    counters: Vec<Counters>,
    reasons: BTreeMap<String, u64>,
}

/// What a packet did.
#[derive(Clone, Debug)]
pub struct Done {
    pub verdict: Verdict,
    pub run: TestRun,
    /// By node of the graph.
    pub counters: Vec<Counters>,
    pub reasons: BTreeMap<String, u64>,
}

impl Loaded {
    pub fn new(
        registry: &Registry,
        hook: Hook,
        chains: &[Value],
        options: Options,
    ) -> Result<Self, String> {
        let graph = compile(registry, hook, chains)?;
        let instance = Instance::load(registry, version(), graph.clone(), options)
            .map_err(|e| format!("{e:#}"))?;
        let nodes = graph.nodes.len();
        Ok(Self {
            instance,
            graph,
            tc: Family::from(hook) == Family::Tc,
            counters: vec![Counters::default(); nodes],
            reasons: BTreeMap::new(),
        })
    }

    /// Numbers of the nodes of a kind, of a chain (by its place in the order).
    pub fn nodes(&self, chain: usize, kind: Kind) -> Vec<usize> {
        let all = self.graph.nodes.iter().enumerate();
        all.filter(|(_, n)| n.chain == chain && n.kind == kind)
            .map(|(i, _)| i)
            .collect()
    }

    /// Runs a packet once; `mark` only counts at tc.
    pub fn run(&mut self, packet: &[u8], mark: u32) -> Result<Done, String> {
        let mark = self.tc.then_some(mark);
        let result = self.instance.run(packet, mark, 1);
        let (verdict, run) = result.map_err(|e| format!("{e:#}"))?;
        let counters = self.instance.counters().map_err(|e| format!("{e:#}"))?;
        let reasons = self.instance.reasons().map_err(|e| format!("{e:#}"))?;
        let reasons: BTreeMap<String, u64> = reasons.into_iter().collect();
        let more = counters.iter().zip(&self.counters);
        let done = Done {
            verdict,
            run,
            counters: more
                .map(|(after, before)| Counters {
                    evaluated: after.evaluated - before.evaluated,
                    matched: after.matched - before.matched,
                    errors: after.errors - before.errors,
                    bytes: after.bytes - before.bytes,
                })
                .collect(),
            reasons: reasons
                .iter()
                .map(|(name, n)| (name.clone(), n - self.reasons.get(name).unwrap_or(&0)))
                .filter(|(_, n)| *n > 0)
                .collect(),
        };
        self.counters = counters;
        self.reasons = reasons;
        Ok(done)
    }
}
