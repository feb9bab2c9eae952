//! What the tests share that run the programs in the kernel: from chains in JSON
//! to an instance, and what one packet did to its counters.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use emptcp::datapath::Counters;
use emptcp::datapath::Instance;
use emptcp::datapath::Options;
use emptcp::datapath::TestRun;
use emptcp::datapath::Verdict;
use emptcp::graph;
use emptcp::graph::BoundChain;
use emptcp::graph::Graph;
use emptcp::module::Family;
use emptcp::module::Hook;
use emptcp::module::KernelVersion;
use emptcp::module::Kind;
use emptcp::module::Module;
use emptcp::module::Registry;
use emptcp::module::Type;
use emptcp::params::AnyInterface;
use emptcp::policy;
use emptcp::policy::Fragment;
use emptcp::table;
use emptcp::table::Planned;
use emptcp_test::outside::clang;
use emptcp_test::outside::libbpf_headers;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::query::ProgInfoQueryOptions;
use libbpf_rs::query::ProgramInfo;
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

/// Does the same with each item, on all CPUs: most of what takes time is the verifier. What comes
/// out is in the order of the items.
pub fn on_all_cpus<T: Send, R: Send>(items: Vec<T>, f: impl Fn(T) -> R + Sync) -> Vec<R> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap().next();
    let work = || {
        let numbered = std::iter::from_fn(next).map(|(number, item)| (number, f(item)));
        numbered.collect::<Vec<_>>()
    };
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cpus).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join());
        done.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Says what a test leaves out, past the harness, which hides what a test that passes prints.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// The hooks by their names.
pub fn hook(name: &str) -> Hook {
    name.parse().unwrap()
}

/// The graph of chains, objects of JSON without hook and interfaces.
pub fn compile(registry: &Registry, hook: Hook, chains: &[Value]) -> Result<Graph, String> {
    compile_with(registry, hook, chains, &json!({}), true).map(|(graph, ..)| graph)
}

/// The same with tables, as in a policy, and with the tracker in front, if it is wanted, where one
/// of the steps goes by what it remembers. Last: how many chains that has.
pub fn compile_with(
    registry: &Registry,
    hook: Hook,
    chains: &[Value],
    tables: &Value,
    tracker: bool,
) -> Result<(Graph, Vec<Planned>, usize), String> {
    let chains: Vec<Value> = chains
        .iter()
        .map(|chain| {
            let mut chain = chain.clone();
            chain["hook"] = hook.name().into();
            chain["interfaces"] = json!(["test0"]);
            chain
        })
        .collect();
    let text = json!({ "version": 1, "tables": tables, "chains": chains }).to_string();
    let lines = |errors: Vec<policy::Diagnostic>| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        format!("{}\n{text}", lines.join("\n"))
    };
    let fragment = Fragment {
        name: "test.json".to_owned(),
        bytes: text.clone().into_bytes(),
    };
    let policy = policy::parse(&[fragment]).map_err(lines)?;
    let whole = match tracker {
        true => graph::with_tracker(&policy, registry.modules()),
        false => Cow::Borrowed(&policy),
    };
    let bound = graph::bind(&whole, registry.modules(), &AnyInterface).map_err(lines)?;
    // The tracker is at the other direction, too.
    let here = |chain: &&BoundChain<'_>| chain.chain.hooks.iter().any(|h| h.value == hook);
    let bound: Vec<_> = bound.iter().filter(here).collect();
    let tables = table::planned(&policy, &AnyInterface).map_err(lines)?;
    let graph = graph::compile(hook, &bound, registry.modules());
    Ok((graph, tables, bound.len() - chains.len()))
}

/// A loaded graph and the nodes in it.
#[derive(Debug)]
pub struct Loaded {
    pub instance: Instance,
    pub graph: Graph,
    /// Chains of the tracker, which come first.
    front: usize,
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
        Self::with_tables(registry, hook, chains, &json!({}), options)
    }

    pub fn with_tables(
        registry: &Registry,
        hook: Hook,
        chains: &[Value],
        tables: &Value,
        options: Options,
    ) -> Result<Self, String> {
        Self::of(
            registry,
            compile_with(registry, hook, chains, tables, true)?,
            options,
        )
    }

    /// What compile_with() made.
    pub fn of(
        registry: &Registry,
        (graph, tables, front): (Graph, Vec<Planned>, usize),
        options: Options,
    ) -> Result<Self, String> {
        let instance =
            Instance::load_with_tables(registry, version(), graph.clone(), &tables, options)
                .map_err(|e| format!("{e:#}"))?;
        let nodes = graph.nodes.len();
        Ok(Self {
            instance,
            front,
            tc: Family::from(graph.hook) == Family::Tc,
            graph,
            counters: vec![Counters::default(); nodes],
            reasons: BTreeMap::new(),
        })
    }

    /// Numbers of the nodes of a kind, of a chain (by its place in the order, the tracker's aside).
    pub fn nodes(&self, chain: usize, kind: Kind) -> Vec<usize> {
        let all = self.graph.nodes.iter().enumerate();
        all.filter(|(_, n)| n.chain == self.front + chain && n.kind == kind)
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

/// A reader of captures, for so long; `flags`: what it asks for. False where no step copies
/// packets.
pub fn captures_are_read(instance: &Instance, time: Duration, flags: u64) -> bool {
    is_read(instance, "capture_reader", time, flags)
}

/// The same of events.
pub fn events_are_read(instance: &Instance, time: Duration) -> bool {
    is_read(instance, "event_reader", time, 0)
}

fn is_read(instance: &Instance, map: &str, time: Duration, flags: u64) -> bool {
    let Some(reader) = instance.state_map(map) else {
        return false;
    };
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    let until = Duration::from(now) + time;
    let mut value = (until.as_nanos() as u64).to_ne_bytes().to_vec();
    value.extend(flags.to_ne_bytes());
    reader
        .update(&0u32.to_ne_bytes(), &value, MapFlags::ANY)
        .unwrap();
    true
}

/// What the kernel knows of the programs in so many slots: by node, where steps are not joined.
pub fn programs(instance: &Instance, slots: usize) -> Vec<ProgramInfo> {
    let ids: Vec<u32> = (0..slots as u32)
        .map(|slot| {
            let id = instance.array().lookup(&slot.to_ne_bytes(), MapFlags::ANY);
            let id = id.unwrap().unwrap();
            u32::from_ne_bytes(*id.first_chunk().unwrap())
        })
        .collect();
    infos(&ids)
}

/// What the kernel knows of the entry program.
pub fn entry_program(instance: &Instance) -> ProgramInfo {
    let entry = instance.entry();
    let path = format!("/proc/self/fdinfo/{}", entry.as_fd().as_raw_fd());
    let info = fs::read_to_string(path).unwrap();
    let id = info.lines().find_map(|l| l.strip_prefix("prog_id:"));
    infos(&[id.unwrap().trim().parse().unwrap()]).remove(0)
}

fn infos(ids: &[u32]) -> Vec<ProgramInfo> {
    // The iteration ends early where somebody else's program goes away meanwhile.
    for _ in 0..20 {
        let options = ProgInfoQueryOptions::default()
            .include_jited_prog_insns(true)
            .include_jited_func_lens(true)
            .include_jited_ksyms(true);
        let mut found: Vec<Option<ProgramInfo>> = ids.iter().map(|_| None).collect();
        for info in ProgInfoIter::with_query_opts(options) {
            if let Some(node) = ids.iter().position(|id| *id == info.id) {
                found[node] = Some(info);
            }
        }
        if let Some(found) = found.into_iter().collect() {
            return found;
        }
    }
    panic!("the programs {ids:?} cannot be found");
}

/// Compiles a module as a third party would, against the headers only, for both
/// families (a module for one of them names the others' hooks nowhere).
pub fn compile_module(source: &Path, to: &Path) {
    let text = fs::read_to_string(source).unwrap();
    let name = source.file_name().unwrap().to_str().unwrap();
    let name = name.strip_suffix(".bpf.c").unwrap();
    for (family, define, excluded) in [
        ("xdp", "-DEMPTCP_XDP", "EMPTCP_HOOKS_TC"),
        ("tc", "-DEMPTCP_TC", "EMPTCP_HOOKS_XDP"),
    ] {
        if text.contains(excluded) {
            continue;
        }
        compile_one(source, define, &to.join(format!("{name}.{family}.o")));
    }
}

/// Compiles programs of tc that are no module.
pub fn compile_program(source: &Path, object: &Path) {
    compile_one(source, "-DEMPTCP_TC", object);
}

fn compile_one(source: &Path, define: &str, object: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut clang = Command::new(clang());
    clang
        .args([
            "-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror",
        ])
        .arg(define)
        .arg("-I")
        .arg(root.join("include"))
        .arg("-I")
        .arg(libbpf_headers(object.parent().unwrap()))
        .arg("-idirafter")
        .arg(format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object);
    let output = clang.output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{clang:?}:\n{messages}");
}

/// A folder that is removed with it.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("emptcp-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The built-in modules and those of sources of `tests/modules-src`, compiled here.
pub fn registry_with(sources: &[&str]) -> Registry {
    let folder = Folder::new("modules");
    for name in sources {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/modules-src")
            .join(format!("{name}.bpf.c"));
        compile_module(&source, &folder.0);
    }
    let mut registry = Registry::builtin().unwrap();
    registry.add_folder(&folder.0).unwrap();
    registry
}

/// Parameters with which the module can go each way: those that must be given, and sets, of
/// which an empty one makes the verifier drop a branch.
pub fn params(module: &Module) -> Value {
    let mut params = json!({});
    // Without bounds a selector may match everything, and its way to a miss vanish.
    let narrows = |ty: &Type| match ty {
        Type::Set { .. } | Type::List { .. } => true,
        Type::Bytes => module.kind == Kind::Selector,
        _ => false,
    };
    let given = module
        .params
        .iter()
        .filter(|p| p.required || narrows(&p.ty));
    for param in given {
        if let Type::Set { values } = &param.ty {
            // All: the code for none of them vanishes.
            let names: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
            params[&param.name] = json!(names);
            continue;
        }
        if let Type::Enum { values, .. } = &param.ty {
            params[&param.name] = values[0].0.as_str().into();
            continue;
        }
        params[&param.name] = match param.ty.to_string().as_str() {
            "address" => "10.0.0.1".into(),
            "interface" => "test0".into(),
            "text" => "text".into(),
            "prefix" => "10.0.0.0/8".into(),
            list if list.starts_with("list of cgroup") => json!(["/", "/none"]),
            "list of prefix" => json!(["10.0.0.0/8", "2001:db8::/32"]),
            "list of port range" => json!([80, "8000-8010"]),
            "ratio" => json!("50%"),
            "bool" => true.into(),
            list if list.starts_with("list of u") => json!([7, 8]),
            table if table.starts_with("table of ") => param.name.as_str().into(),
            _ => 7.into(),
        };
    }
    params
}

/// The tables that these parameters name: of the name of their parameter, without entries.
fn tables(module: &Module) -> Value {
    let mut tables = json!({});
    for param in module.params.iter().filter(|p| p.required) {
        if let Some(of) = param.ty.to_string().strip_prefix("table of ") {
            let (key, value) = of
                .split_once(" to ")
                .map_or((of, None), |(k, v)| (k, Some(v)));
            tables[&param.name] = match value {
                Some(value) => json!({ "type": key, "value": value }),
                None => json!({ "type": key }),
            };
        }
    }
    tables
}

/// The step with a node of its own for each way on, each a program of its own.
pub fn graph_of(registry: &Registry, module: &Module, hook: Hook) -> (Loaded, usize) {
    let step = json!({ module.name.as_str(): params(module) });
    let window = |bytes: u64| json!({ "set_recv_win": { "bytes": bytes, "wscale": 0 } });
    let mut chain = match module.kind {
        Kind::Selector => json!({
            "select": { "any": [step, { "tcp": { "flags": ["urg"] } }] },
            "act": [window(9000)],
        }),
        Kind::Actor if module.flags.ends => json!({ "act": [step] }),
        Kind::Actor => json!({ "act": [step, window(9000)] }),
    };
    chain["name"] = "tested".into();
    let behind = json!({ "name": "behind", "priority": 1, "act": [window(8000)] });
    let options = Options {
        join: false,
        ..Options::default()
    };
    let tables = tables(module);
    let loaded = Loaded::with_tables(registry, hook, &[chain, behind], &tables, options);
    let loaded = loaded.unwrap_or_else(|e| panic!("{} at {hook}: {e}", module.name));
    let node = loaded.nodes(0, module.kind)[0];
    (loaded, node)
}
