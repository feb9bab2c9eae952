//! `emptcp bench`: what chains and modules cost on this machine.
//!
//! Everything is measured by test runs of the kernel, behind a program that
//! restores the packet, in rounds of random order; the result is the median of
//! the rounds. Beside a chain stand a monolithic program that does the same, and
//! an empty one (the floor).

mod alone;
mod frame;
mod many;
mod show;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::ensure;
use serde::Serialize;
use serde_json::json;

use self::alone::ModuleCost;
use self::frame::Frame;
use self::frame::kinds;
use super::Done;
use super::print_json;
use super::running_kernel;
use super::status::table;
use crate::datapath::Instance;
use crate::datapath::Listener;
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
use crate::module::Module;
use crate::module::Registry;
use crate::params::AnyInterface;
use crate::policy::Fragment;
use crate::policy::Policy;
use crate::policy::parse;

/// The chains that are measured.
const CHAINS: &str = include_str!("../../benches/chains.json");
/// Hooks that are measured.
const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::TcIngress];

/// Whether a module is measured at a hook: at tc egress those that run nowhere else, because the
/// others are the same programs there as at ingress.
fn at_hook(module: &Module, hook: Hook) -> bool {
    let only = hook != Hook::TcEgress || !module.hooks.contains(&Hook::TcIngress);
    module.hooks.contains(&hook) && only
}

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
    /// Measure these modules and chains (of benches/chains.json) alone; the rule is all.
    #[arg(value_name = "NAME")]
    only: Vec<String>,
}

/// A chain and what it is compared with; nanoseconds, medians.
#[derive(Debug, Serialize)]
struct ChainCost {
    hook: &'static str,
    /// What it was measured on.
    packet: &'static str,
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

/// A program that is timed, and its times.
struct Subject {
    timed: Timed,
    packet: Vec<u8>,
    times: Vec<u32>,
    /// Reads what its steps copy, which would else be lost.
    listener: Option<Listener>,
    /// Kept: without it the program's slots are emptied.
    _instance: Option<Instance>,
}

/// Runs between two looks at a ring: it has room for these.
const UNREAD: u32 = 2000;

impl Subject {
    /// Mean nanoseconds of a run.
    fn run(&self, repeat: u32) -> Result<u32> {
        let Some(listener) = &self.listener else {
            return Ok(self.timed.run(&self.packet, repeat)?.0);
        };
        let (mut sum, mut left) = (0, repeat);
        while left > 0 {
            let runs = left.min(UNREAD);
            sum += u64::from(self.timed.run(&self.packet, runs)?.0) * u64::from(runs);
            listener.empty()?;
            left -= runs;
        }
        Ok((sum / u64::from(repeat)) as u32)
    }
}

/// All that is measured.
#[derive(Default)]
struct Bench {
    subjects: Vec<Subject>,
    /// By hook and packet: an empty program, and the entry program without a step.
    nothing: BTreeMap<(Hook, Vec<u8>), [usize; 2]>,
}

impl Bench {
    fn add(&mut self, timed: Timed, packet: &[u8], instance: Option<Instance>) -> Result<usize> {
        let listener = instance.as_ref().map(Listener::new).transpose()?.flatten();
        self.subjects.push(Subject {
            timed,
            packet: packet.to_vec(),
            times: Vec::new(),
            listener,
            _instance: instance,
        });
        Ok(self.subjects.len() - 1)
    }

    fn add_instance(&mut self, family: Family, instance: Instance, packet: &[u8]) -> Result<usize> {
        let timed = Timed::new(family, instance.entry(), packet)?;
        self.add(timed, packet, Some(instance))
    }

    fn add_monolith(
        &mut self,
        family: Family,
        monolith: &Monolith,
        packet: &[u8],
    ) -> Result<usize> {
        let timed = Timed::new(family, monolith.program()?, packet)?;
        self.add(timed, packet, None)
    }

    /// Adds what is subtracted for a packet, once: the floor, and the entry program without a step.
    fn add_nothing(
        &mut self,
        registry: &Registry,
        kernel: KernelVersion,
        hook: Hook,
        packet: &[u8],
    ) -> Result<[usize; 2]> {
        let key = (hook, packet.to_vec());
        if let Some(known) = self.nothing.get(&key) {
            return Ok(*known);
        }
        let floor = Timed::floor(hook.into(), packet)?;
        let floor = self.add(floor, packet, None)?;
        let graph = Graph {
            hook,
            nodes: Vec::new(),
            start: Target::Pass,
        };
        let entry = Instance::load(registry, kernel, graph, Options::default())?;
        let both = [floor, self.add_instance(hook.into(), entry, packet)?];
        self.nothing.insert(key, both);
        Ok(both)
    }

    fn measure(&mut self, rounds: u32, repeat: u32) -> Result<()> {
        let mut random = Random::new();
        let mut order: Vec<usize> = (0..self.subjects.len()).collect();
        for subject in &self.subjects {
            subject.run(repeat.min(1000))?;
        }
        for _ in 0..rounds {
            random.shuffle(&mut order);
            for index in &order {
                let subject = &mut self.subjects[*index];
                let time = subject.run(repeat)?;
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
    floor: usize,
    packet: &'static str,
    shape: String,
    steps: Vec<String>,
    chain: usize,
    monolith: usize,
    uncounted: Option<(usize, usize)>,
}

pub(super) fn run(context: &super::Context, args: &Args) -> Result<Done> {
    let kernel = running_kernel()?;
    let mut bench = Bench::default();
    let modules = context.registry.modules();
    let policy = read(CHAINS)?;
    let chains = bind(&policy, modules, &AnyInterface).map_err(invalid)?;

    for name in &args.only {
        ensure!(
            modules.iter().any(|m| m.name == *name)
                || chains.iter().any(|c| c.chain.name.value == *name),
            "there is no module or chain {name}; `emptcp modules` lists the modules"
        );
    }
    let wanted = |name: &String| args.only.is_empty() || args.only.contains(name);
    let mut compared = Vec::new();
    for hook in HOOKS {
        for chain in &chains {
            if wanted(&chain.chain.name.value) && chain.chain.hooks.iter().any(|h| h.value == hook)
            {
                compared.push(compare(context, kernel, args, hook, chain, &mut bench)?);
            }
        }
    }
    let mut alone = Vec::new();
    for hook in Hook::ALL {
        for module in modules.iter().filter(|m| at_hook(m, hook)) {
            if module.since > kernel || !wanted(&module.name) {
                continue;
            }
            let what = (module, hook);
            let one = alone::load(&context.registry, kernel, what, &chains, !args.no_counters)?;
            let Some(one) = one else {
                continue;
            };
            let (name, packet) = one.packet;
            let nothing = bench.add_nothing(&context.registry, kernel, hook, &packet)?;
            let subject = bench.add_instance(hook.into(), one.instance, &packet)?;
            alone.push((module, hook, (name, one.works), nothing, subject));
        }
    }

    let mut many = Vec::new();
    for hook in HOOKS.into_iter().filter(|_| args.only.is_empty()) {
        many.extend(many::load(&context.registry, kernel, hook, &mut bench)?);
    }

    bench.measure(args.rounds, args.repeat)?;

    let chains: Vec<_> = compared
        .into_iter()
        .map(|c| {
            let floor = bench.median(c.floor);
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
                    fastest: bench.fastest([chain, monolith, c.floor]),
                    ns,
                    monolithic_ns,
                    ratio,
                    ratio_net,
                }
            });
            ChainCost {
                hook: c.hook.name(),
                packet: c.packet,
                shape: c.shape,
                steps: c.steps,
                ns,
                monolithic_ns,
                floor_ns: floor,
                ratio,
                ratio_net,
                fastest: bench.fastest([c.chain, c.monolith, c.floor]),
                uncounted,
            }
        })
        .collect();
    let modules: Vec<_> = alone
        .into_iter()
        .map(
            |(module, hook, (packet, works), [floor, entry], subject)| ModuleCost {
                name: module.name.clone(),
                hook: hook.name(),
                kind: module.kind.name(),
                packet,
                works,
                ns: bench.median(subject),
                entry_ns: bench.median(entry),
                floor_ns: bench.median(floor),
            },
        )
        .collect();
    let usual = Frame::default().bytes();
    let nothing = |hook, which: usize| {
        let both = bench.nothing.get(&(hook, usual.clone()));
        both.map_or(0.0, |b| bench.median(b[which]))
    };
    let (floor, entry) = (|hook| nothing(hook, 0), |hook| nothing(hook, 1));
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
        show::print(!args.no_counters, &chains, &modules);
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
    // Where a chain does its work on none of them it is measured on the first.
    let mut packets = kinds();
    let trial = alone::Trial::load(&context.registry, kernel, &graph)?;
    let which = (packets.iter()).position(|(_, p)| trial.works(p, 1).is_ok_and(|works| works));
    let (packet, bytes) = packets.swap_remove(which.unwrap_or(0));
    let mut add = |count: bool| -> Result<(usize, usize)> {
        let options = Options {
            count,
            ..Options::default()
        };
        let loaded = Instance::load(&context.registry, kernel, graph.clone(), options)?;
        let monolith = Monolith::load(family, &chain.chain.name, (selectors, actors), count)?
            .with_context(|| format!("there is no monolith for a chain of {shape}"))?;
        do_the_same(family, &loaded, &monolith)
            .with_context(|| format!("{hook} {shape}: chain and monolith differ"))?;
        let loaded = bench.add_instance(family, loaded, &bytes)?;
        Ok((loaded, bench.add_monolith(family, &monolith, &bytes)?))
    };
    let (loaded, monolith) = add(!args.no_counters)?;
    let uncounted = if args.no_counters {
        None
    } else {
        Some(add(false)?)
    };
    let [floor, _] = bench.add_nothing(&context.registry, kernel, hook, &bytes)?;
    Ok(Compared {
        hook,
        floor,
        packet,
        shape,
        steps,
        chain: loaded,
        monolith,
        uncounted,
    })
}

/// Runs packets of several kinds through both: verdict, bytes, mark and all that is counted.
fn do_the_same(family: Family, chain: &Instance, monolith: &Monolith) -> Result<()> {
    let frame = Frame::default;
    let mut foreign = frame().bytes();
    foreign[23] = 17;
    let with = |change: &dyn Fn(&mut Frame)| {
        let mut frame = frame();
        change(&mut frame);
        frame.bytes()
    };
    let mut packets = kinds();
    packets.extend([
        ("a SYN", with(&|f| f.flags = 2)),
        ("a small window", with(&|f| f.window = 100)),
        ("plain TCP", with(&|f| f.options.truncate(12))),
        (
            "TCP-MD5",
            with(&|f| {
                f.options
                    .splice(.., [1, 1, 19, 18].into_iter().chain([0; 16]))
                    .for_each(drop)
            }),
        ),
        ("another port", with(&|f| f.dport = 22)),
        (
            "another source",
            with(&|f| f.src = Ipv4Addr::new(10, 9, 0, 1)),
        ),
        ("half a header", frame().bytes()[..40].to_vec()),
        ("UDP", foreign),
    ]);
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
