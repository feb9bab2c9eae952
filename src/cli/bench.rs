//! `emptcp bench`: what chains and modules cost on this machine.
//!
//! Everything is measured by test runs of the kernel, behind a program that
//! restores the packet, in rounds of random order; the result is the median of
//! the rounds. Beside a chain stand a monolithic program that does the same, and
//! an empty one (the floor).

mod many;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::ensure;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::Done;
use super::print_json;
use super::running_kernel;
use super::status::table;
use crate::datapath::Instance;
use crate::datapath::Monolith;
use crate::datapath::Options;
use crate::datapath::Timed;
use crate::graph::BoundChain;
use crate::graph::Graph;
use crate::graph::Target;
use crate::graph::bind;
use crate::graph::compile;
use crate::module::Family;
use crate::module::Hook;
use crate::module::KernelVersion;
use crate::module::Kind;
use crate::module::Module;
use crate::module::Type;
use crate::params::AnyInterface;
use crate::policy::Fragment;
use crate::policy::Policy;
use crate::policy::parse;

/// The chains that are measured.
const CHAINS: &str = include_str!("../../benches/chains.json");
/// Hooks that are measured; at tc egress the same programs run as at ingress.
const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::TcIngress];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Rounds of which the median is taken.
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Runs of each program in each round.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Measure programs that do not count; the rule is to measure chains that do, and beside them
    /// the same without.
    #[arg(long)]
    no_counters: bool,
}

/// A chain and what it is compared with; nanoseconds, medians.
#[derive(Debug, Serialize)]
struct ChainCost {
    hook: &'static str,
    shape: String,
    steps: Vec<String>,
    ns: f64,
    monolithic_ns: f64,
    floor_ns: f64,
    /// Chain by monolith.
    ratio: f64,
    /// The same, without the floor.
    ratio_net: f64,
    /// Fastest rounds of chain, monolith and floor: what other load on the machine disturbs least.
    fastest: [u32; 3],
    #[serde(skip_serializing_if = "Option::is_none")]
    uncounted: Option<Uncounted>,
}

/// The same where nothing is counted.
#[derive(Debug, Serialize)]
struct Uncounted {
    fastest: [u32; 3],
    ns: f64,
    monolithic_ns: f64,
    ratio: f64,
    ratio_net: f64,
}

/// One step behind the entry program.
#[derive(Debug, Serialize)]
struct ModuleCost {
    name: String,
    hook: &'static str,
    kind: &'static str,
    ns: f64,
    /// The entry program without a step.
    entry_ns: f64,
    floor_ns: f64,
}

/// A program that is timed, and its times.
struct Subject {
    timed: Timed,
    times: Vec<u32>,
    /// Kept: without it the program's slots are emptied.
    _instance: Option<Instance>,
}

/// All that is measured.
struct Bench {
    packet: Vec<u8>,
    subjects: Vec<Subject>,
}

impl Bench {
    fn add(&mut self, timed: Timed, instance: Option<Instance>) -> usize {
        self.subjects.push(Subject {
            timed,
            times: Vec::new(),
            _instance: instance,
        });
        self.subjects.len() - 1
    }

    fn add_instance(&mut self, family: Family, instance: Instance) -> Result<usize> {
        let timed = Timed::new(family, instance.entry(), &self.packet)?;
        Ok(self.add(timed, Some(instance)))
    }

    fn add_monolith(&mut self, family: Family, monolith: &Monolith) -> Result<usize> {
        let timed = Timed::new(family, monolith.program()?, &self.packet)?;
        Ok(self.add(timed, None))
    }

    fn measure(&mut self, rounds: u32, repeat: u32) -> Result<()> {
        let mut random = Random::new();
        let mut order: Vec<usize> = (0..self.subjects.len()).collect();
        for subject in &self.subjects {
            subject.timed.run(&self.packet, repeat.min(1000))?;
        }
        for _ in 0..rounds {
            random.shuffle(&mut order);
            for index in &order {
                let subject = &mut self.subjects[*index];
                let (time, _) = subject.timed.run(&self.packet, repeat)?;
                subject.times.push(time);
            }
        }
        Ok(())
    }

    fn fastest(&self, subjects: [usize; 3]) -> [u32; 3] {
        subjects.map(|s| self.subjects[s].times.iter().copied().min().unwrap_or(0))
    }

    fn median(&self, subject: usize) -> f64 {
        let mut times = self.subjects[subject].times.clone();
        times.sort_unstable();
        let middle = times.len() / 2;
        match times.len() % 2 {
            0 => f64::from(times[middle - 1] + times[middle]) / 2.0,
            _ => times[middle].into(),
        }
    }
}

/// What was loaded for one chain.
struct Compared {
    hook: Hook,
    shape: String,
    steps: Vec<String>,
    chain: usize,
    monolith: usize,
    uncounted: Option<(usize, usize)>,
}

pub(super) fn run(context: &super::Context, args: &Args) -> Result<Done> {
    let kernel = running_kernel()?;
    let packet = Frame::default().bytes();
    let mut bench = Bench {
        packet: packet.clone(),
        subjects: Vec::new(),
    };
    let modules = context.registry.modules();
    let policy = read(CHAINS)?;
    let chains = bind(&policy, modules, &AnyInterface).map_err(invalid)?;

    let mut floors = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for hook in HOOKS {
        let family = hook.into();
        let floor = Timed::floor(family, &packet)?;
        floors.insert(hook, bench.add(floor, None));
        let nothing = Graph {
            hook,
            nodes: Vec::new(),
            start: Target::Pass,
        };
        let entry = Instance::load(&context.registry, kernel, nothing, Options::default())?;
        entries.insert(hook, bench.add_instance(family, entry)?);
    }

    let mut compared = Vec::new();
    for hook in HOOKS {
        for chain in &chains {
            if chain.chain.hooks.iter().any(|h| h.value == hook) {
                compared.push(compare(context, kernel, args, hook, chain, &mut bench)?);
            }
        }
    }
    let mut alone = Vec::new();
    for hook in HOOKS {
        for module in modules.iter().filter(|m| m.hooks.contains(&hook)) {
            if module.since > kernel {
                continue;
            }
            let Some(graph) = one_step(modules, module, hook, &chains)? else {
                continue;
            };
            let options = Options {
                count: !args.no_counters,
                ..Options::default()
            };
            let one = Instance::load(&context.registry, kernel, graph, options)?;
            alone.push((module, hook, bench.add_instance(hook.into(), one)?));
        }
    }

    let mut many = Vec::new();
    for hook in HOOKS {
        many.extend(many::load(&context.registry, kernel, hook, &mut bench)?);
    }

    bench.measure(args.rounds, args.repeat)?;

    let chains: Vec<_> = compared
        .into_iter()
        .map(|c| {
            let floor = bench.median(floors[&c.hook]);
            let ratios = |chain: f64, monolith: f64| {
                (
                    rounded(chain / monolith),
                    rounded((chain - floor) / (monolith - floor)),
                )
            };
            let (ns, monolithic_ns) = (bench.median(c.chain), bench.median(c.monolith));
            let (ratio, ratio_net) = ratios(ns, monolithic_ns);
            let uncounted = c.uncounted.map(|(chain, monolith)| {
                let (ns, monolithic_ns) = (bench.median(chain), bench.median(monolith));
                let (ratio, ratio_net) = ratios(ns, monolithic_ns);
                Uncounted {
                    fastest: bench.fastest([chain, monolith, floors[&c.hook]]),
                    ns,
                    monolithic_ns,
                    ratio,
                    ratio_net,
                }
            });
            ChainCost {
                hook: c.hook.name(),
                shape: c.shape,
                steps: c.steps,
                ns,
                monolithic_ns,
                floor_ns: floor,
                ratio,
                ratio_net,
                fastest: bench.fastest([c.chain, c.monolith, floors[&c.hook]]),
                uncounted,
            }
        })
        .collect();
    let modules: Vec<_> = alone
        .into_iter()
        .map(|(module, hook, subject)| ModuleCost {
            name: module.name.clone(),
            hook: hook.name(),
            kind: module.kind.name(),
            ns: bench.median(subject),
            entry_ns: bench.median(entries[&hook]),
            floor_ns: bench.median(floors[&hook]),
        })
        .collect();
    let floor = |hook| bench.median(floors[&hook]);
    let entry = |hook| bench.median(entries[&hook]);
    let many: Vec<_> = many
        .into_iter()
        .map(|m| many::cost(m, &bench, floor, entry))
        .collect();
    if context.json {
        print_json(&json!({
            "rounds": args.rounds, "repeat": args.repeat, "counters": !args.no_counters,
            "chains": chains, "modules": modules, "many": many
        }))?;
    } else {
        print(!args.no_counters, &chains, &modules);
        many::print(&many);
        eprintln!("emptcp: nanoseconds a packet, medians");
    }
    Ok(Done::Yes)
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn invalid(errors: Vec<crate::policy::Diagnostic>) -> anyhow::Error {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    anyhow!("{}", lines.join("; "))
}

fn read(text: &str) -> Result<Policy> {
    parse(&[Fragment {
        name: "benches/chains.json".to_owned(),
        bytes: text.as_bytes().to_vec(),
    }])
    .map_err(invalid)
}

/// Loads a chain and its monolith, and proves that they do the same.
fn compare(
    context: &super::Context,
    kernel: KernelVersion,
    args: &Args,
    hook: Hook,
    chain: &BoundChain<'_>,
    bench: &mut Bench,
) -> Result<Compared> {
    let modules = context.registry.modules();
    let family = Family::from(hook);
    let graph = compile(hook, &[chain], modules);
    let steps: Vec<_> = graph
        .nodes
        .iter()
        .map(|n| modules[n.module].name.clone())
        .collect();
    let actors = chain.act.len();
    let selectors = steps.len() - actors;
    let shape = format!("{selectors}+{actors}");
    let load = |count: bool| -> Result<(Instance, Monolith)> {
        let options = Options {
            count,
            ..Options::default()
        };
        let chain = Instance::load(&context.registry, kernel, graph.clone(), options)?;
        let monolith = Monolith::load(family, selectors, actors, count)?
            .with_context(|| format!("there is no monolith for a chain of {shape}"))?;
        do_the_same(family, &chain, &monolith)
            .with_context(|| format!("{hook} {shape}: chain and monolith differ"))?;
        Ok((chain, monolith))
    };
    let mut add = |count: bool| -> Result<(usize, usize)> {
        let (chain, monolith) = load(count)?;
        let chain = bench.add_instance(family, chain)?;
        Ok((chain, bench.add_monolith(family, &monolith)?))
    };
    let (chain, monolith) = add(!args.no_counters)?;
    let uncounted = if args.no_counters {
        None
    } else {
        Some(add(false)?)
    };
    Ok(Compared {
        hook,
        shape,
        steps,
        chain,
        monolith,
        uncounted,
    })
}

/// Runs packets of several kinds through both: verdict, bytes, mark and all that is counted.
fn do_the_same(family: Family, chain: &Instance, monolith: &Monolith) -> Result<()> {
    let frame = Frame::default();
    let mut foreign = frame.bytes();
    foreign[23] = 17;
    let packets = [
        ("an ACK", frame.bytes()),
        ("a SYN", Frame { flags: 2, ..frame }.bytes()),
        (
            "a small window",
            Frame {
                window: 100,
                ..frame
            }
            .bytes(),
        ),
        (
            "plain TCP",
            Frame {
                mptcp: false,
                ..frame
            }
            .bytes(),
        ),
        ("another port", Frame { dport: 22, ..frame }.bytes()),
        (
            "another source",
            Frame {
                src: Ipv4Addr::new(10, 9, 0, 1),
                ..frame
            }
            .bytes(),
        ),
        ("half a header", frame.bytes()[..40].to_vec()),
        ("UDP", foreign),
    ];
    for (name, packet) in &packets {
        let mark = (family == Family::Tc).then_some(0x1234);
        let (_, one) = chain.run(packet, mark, 1)?;
        let other = monolith.run(packet, mark)?;
        ensure!(
            (one.verdict, &one.packet, one.mark) == (other.verdict, &other.packet, other.mark),
            "{name}: {one:x?} and {other:x?}"
        );
    }
    let (one, other) = (chain.counters()?, monolith.counters()?);
    ensure!(one == other, "counters {one:?} and {other:?}");
    // A monolith keeps the same under the same name.
    for name in chain.state_names() {
        let (mut one, mut other) = (chain.state(name)?, monolith.state(name)?);
        one.sort();
        other.sort();
        ensure!(one == other, "{name} {one:x?} and {other:x?}");
    }
    Ok(())
}

/// A graph of one step, with parameters as a chain above has them, else such as
/// fit the frame. `None`: the module needs a table.
fn one_step(
    modules: &[Module],
    module: &Module,
    hook: Hook,
    chains: &[BoundChain<'_>],
) -> Result<Option<Graph>> {
    let known = chains.iter().find(|c| {
        c.chain.hooks.iter().any(|h| h.value == hook)
            && c.steps()
                .iter()
                .any(|s| modules[s.module].name == module.name)
    });
    let mut graph = match known {
        Some(chain) => compile(hook, &[chain], modules),
        None => {
            let mut params = serde_json::Map::new();
            for param in module.params.iter().filter(|p| p.required) {
                let Some(value) = sample(&param.name, &param.ty) else {
                    return Ok(None);
                };
                params.insert(param.name.clone(), value);
            }
            let step: Value = json!({ module.name.clone(): params });
            let mut chain = json!({
                "name": "alone", "hook": hook.name(), "interfaces": ["bench"], "act": [step]
            });
            if module.kind == Kind::Selector {
                // A chain needs an actor; it goes away below.
                let actor = modules.iter().find(|m| {
                    m.kind == Kind::Actor
                        && m.hooks.contains(&hook)
                        && m.params.iter().all(|p| !p.required)
                });
                let actor = actor.context("no actor can be written without parameters")?;
                chain["select"] = step;
                chain["act"] = json!([{ actor.name.clone(): {} }]);
            }
            let policy = read(&json!({ "version": 1, "chains": [chain] }).to_string())?;
            let bound = bind(&policy, modules, &AnyInterface).map_err(invalid)?;
            let bound: Vec<_> = bound.iter().collect();
            compile(hook, &bound, modules)
        }
    };
    graph
        .nodes
        .retain(|n| modules[n.module].name == module.name);
    graph.nodes.truncate(1);
    for node in &mut graph.nodes {
        node.match_to = Target::Pass;
        node.miss_to = Target::Pass;
        node.error_to = Target::Pass;
    }
    graph.start = Target::Node(0);
    Ok((!graph.nodes.is_empty()).then_some(graph))
}

/// A value for a parameter that must be given.
fn sample(name: &str, ty: &Type) -> Option<Value> {
    let frame = Frame::default();
    let source = name.starts_with('s');
    let addr = if source { frame.src } else { frame.dst };
    let port = if source { frame.sport } else { frame.dport };
    Some(match ty {
        Type::Bytes => json!("64KiB"),
        Type::Rate => json!("20Mbit"),
        Type::Time => json!("100ms"),
        Type::Ratio => json!(0.5),
        Type::Addr => json!(addr.to_string()),
        Type::Prefix => json!("10.0.0.0/8"),
        Type::Port | Type::PortRange => json!(port),
        Type::Interface => json!("bench"),
        Type::Cgroup => json!("/"),
        Type::Bool => json!(true),
        Type::Token | Type::Uint(_) | Type::Int(_) => json!(1),
        Type::Enum { values, .. } => json!(values.first()?.0),
        Type::Set { values } => json!([values.first()?.0]),
        Type::List { of, .. } => json!([sample(name, of)?]),
        Type::Table { .. } => return None,
    })
}

/// The packet that is measured, and variations of it for the comparison: an ACK
/// with timestamps and a data acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Frame {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    sport: u16,
    dport: u16,
    flags: u8,
    window: u16,
    mptcp: bool,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            src: Ipv4Addr::new(10, 1, 0, 2),
            dst: Ipv4Addr::new(10, 2, 0, 1),
            sport: 40000,
            dport: 443,
            flags: 0x10,
            window: 4096,
            mptcp: true,
        }
    }
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let mut options = vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8];
        if self.mptcp {
            // DSS with a data acknowledgement of 4 bytes (RFC 8684, 3.3).
            options.extend([30, 8, 0x20, 1, 0, 0, 0, 7]);
        }
        let mut tcp = Vec::new();
        tcp.extend(self.sport.to_be_bytes());
        tcp.extend(self.dport.to_be_bytes());
        tcp.extend(1u32.to_be_bytes());
        tcp.extend(1u32.to_be_bytes());
        tcp.extend([(5 + options.len() as u8 / 4) << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        let mut pseudo = Vec::new();
        pseudo.extend(self.src.octets());
        pseudo.extend(self.dst.octets());
        pseudo.extend([0, 6]);
        pseudo.extend((tcp.len() as u16).to_be_bytes());
        pseudo.extend(&tcp);
        tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());

        let mut ip = vec![0x45, 0];
        ip.extend((20 + tcp.len() as u16).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        ip.extend(self.src.octets());
        ip.extend(self.dst.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());

        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend(ip);
        frame.extend(tcp);
        frame
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Random numbers that need to be nothing but unordered (xorshift).
struct Random(u64);

impl Random {
    fn new() -> Self {
        use std::hash::BuildHasher as _;
        let seed = std::hash::RandomState::new().hash_one(0);
        Self(seed | 1)
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for index in (1..items.len()).rev() {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            items.swap(index, (self.0 % (index as u64 + 1)) as usize);
        }
    }
}

fn three(numbers: [u32; 3]) -> String {
    numbers.map(|n| n.to_string()).join(" ")
}

fn print(counters: bool, chains: &[ChainCost], modules: &[ModuleCost]) {
    let mut all = table(
        &[
            "HOOK", "SHAPE", "COUNTERS", "CHAIN", "MONOLITH", "FLOOR", "RATIO", "NET", "FASTEST",
            "STEPS",
        ],
        &[3, 4, 5, 6, 7, 8],
    );
    for c in chains {
        all.add_row([
            c.hook.to_owned(),
            c.shape.clone(),
            if counters { "yes" } else { "no" }.to_owned(),
            format!("{:.0}", c.ns),
            format!("{:.0}", c.monolithic_ns),
            format!("{:.0}", c.floor_ns),
            format!("{:.2}", c.ratio),
            format!("{:.2}", c.ratio_net),
            three(c.fastest),
            c.steps.join(" "),
        ]);
        if let Some(u) = &c.uncounted {
            all.add_row([
                c.hook.to_owned(),
                c.shape.clone(),
                "no".to_owned(),
                format!("{:.0}", u.ns),
                format!("{:.0}", u.monolithic_ns),
                format!("{:.0}", c.floor_ns),
                format!("{:.2}", u.ratio),
                format!("{:.2}", u.ratio_net),
                three(u.fastest),
                String::new(),
            ]);
        }
    }
    println!("{all}\n");
    let mut single = table(
        &["MODULE", "KIND", "HOOK", "ALONE", "ENTRY", "FLOOR", "STEP"],
        &[3, 4, 5, 6],
    );
    for m in modules {
        single.add_row([
            m.name.clone(),
            m.kind.to_owned(),
            m.hook.to_owned(),
            format!("{:.0}", m.ns),
            format!("{:.0}", m.entry_ns),
            format!("{:.0}", m.floor_ns),
            format!("{:.0}", m.ns - m.entry_ns),
        ]);
    }
    println!("{single}");
}
