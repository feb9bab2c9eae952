//! The command line: one file for each verb.
//!
//! Data goes to standard output, messages to standard error. Exit codes: 0 done,
//! 1 failed, 2 wrong usage, 3 (`apply --dry-run`) would change something.

mod apply;
mod bench;
mod capture;
mod chain;
mod check;
mod connections;
mod delete;
mod doctor;
mod explain;
mod inject;
mod modules;
mod monitor;
mod notices;
mod privilege;
mod reader;
mod replay;
mod run;
mod schema;
mod set_prio;
mod show;
mod status;
mod subflows;
mod table;
mod warnings;
mod watch;

use std::collections::HashMap;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use anyhow::Result;
use clap::CommandFactory as _;
use clap::Parser;
use clap::Subcommand;
use serde::Serialize;

use crate::datapath::Applied;
use crate::datapath::verifier_log;
use crate::graph::BoundChain;
use crate::graph::Budget;
use crate::graph::bind;
use crate::module::KernelVersion;
use crate::module::Registry;
use crate::module::Scope;
use crate::module::Shape;
use crate::params::InterfaceResolver;
use crate::policy::Diagnostic;
use crate::policy::Policy;
use crate::policy::load;

/// Programmable Multipath TCP: chains of selectors and actors in the kernel.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Folder with more modules (NAME.xdp.o, NAME.tc.o); may be repeated.
    #[arg(long, global = true, value_name = "DIR")]
    modules: Vec<PathBuf>,
    /// Print the verifier's whole log where it refuses a module.
    #[arg(long, short, global = true)]
    verbose: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the policy of this network namespace equal to a file or a folder of fragments.
    Apply(apply::Args),
    /// Change one chain of the policy in force.
    Chain(chain::Args),
    /// Check a policy without changing anything; needs no privilege.
    Check(check::Args),
    /// Print the decisions that a policy makes, and what it takes; needs no privilege.
    Explain(explain::Args),
    /// Print the policy in force.
    Show,
    /// Print where the policy runs and what it did.
    Status(status::Args),
    /// Print the connections that the tracker knows.
    Connections(connections::Args),
    /// Print the subflows that the tracker knows.
    Subflows(subflows::Args),
    /// Ask an end of subflows to treat them as backup, or not, at once.
    SetPrio(set_prio::Args),
    /// Send an option of Multipath TCP to an end of subflows, at once.
    Inject(inject::Args),
    /// Read and change the tables in force, while traffic flows.
    #[command(subcommand)]
    Table(table::Verb),
    /// Write packets that steps copy to a capture, or print them.
    Capture(capture::Args),
    /// Print what happens to connections, as it happens.
    Monitor(monitor::Args),
    /// Remove the policy in force with everything that belongs to it.
    Delete,
    /// Tell whether this machine can do what emptcp asks of it.
    Doctor,
    /// List the selectors and actors with their parameters.
    Modules(modules::Args),
    /// Keep the policy in force as interfaces come and go, and run programs that decide, until a
    /// signal ends it.
    Run(run::Args),
    /// Print the JSON Schema of policies, for editors.
    Schema,
    /// Run a capture through the chains of a policy, and write what comes out.
    Replay(replay::Args),
    /// Measure the cost of chains and modules on this machine.
    Bench(bench::Args),
}

/// What every verb gets.
#[derive(Debug)]
struct Context {
    json: bool,
    /// Nothing is said where nothing changes.
    quiet: bool,
    registry: Registry,
}

/// How a verb ended, if not with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Yes,
    /// A policy is not valid; its errors are printed.
    Invalid,
    WouldChange,
    /// This machine lacks what emptcp needs; it is printed.
    Unable,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    restore_sigpipe();
    let cli = Cli::parse();
    let verbose = cli.verbose;
    #[cfg(feature = "failpoints")]
    let _scenario = stop_where_told();
    match run(cli) {
        Ok(Done::Yes) => ExitCode::SUCCESS,
        Ok(Done::Invalid | Done::Unable) => ExitCode::FAILURE,
        Ok(Done::WouldChange) => ExitCode::from(3),
        Err(error) => {
            if let Some(log) = verifier_log(&error).filter(|_| verbose) {
                eprintln!("{}", log.trim_end());
            }
            eprintln!("emptcp: {error:#}");
            if let Some(cure) = privilege::cure(&error) {
                eprintln!("emptcp: {cure}");
            }
            ExitCode::FAILURE
        }
    }
}

/// `EMPTCP_STOP_AT=attached:2`: a SIGSTOP when this place is reached for the second time, so that a
/// test can wait for it, and kill the process there.
#[cfg(feature = "failpoints")]
fn stop_where_told() -> fail::FailScenario<'static> {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering;

    let scenario = fail::FailScenario::setup();
    if let Ok(told) = std::env::var("EMPTCP_STOP_AT") {
        let (place, times) = told.split_once(':').unwrap_or((told.as_str(), "1"));
        let left = AtomicU32::new(times.parse().unwrap_or(1));
        let stop = move || {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
            }
        };
        if let Err(error) = fail::cfg_callback(place, stop) {
            eprintln!("emptcp: EMPTCP_STOP_AT: {error}");
        }
    }
    scenario
}

fn run(cli: Cli) -> Result<Done> {
    // Errors of libbpf reach the user through ours.
    libbpf_rs::set_print(None);
    if let Verb::Table(verb) = &cli.verb {
        // Without a look at modules: it must be quick.
        return table::run(cli.json, verb);
    }
    if let Verb::Capture(args) = &cli.verb {
        return capture::run(cli.json, args);
    }
    if let Verb::Connections(args) = &cli.verb {
        return connections::run(cli.json, args);
    }
    if let Verb::Subflows(args) = &cli.verb {
        return subflows::run(cli.json, args);
    }
    if let Verb::SetPrio(args) = &cli.verb {
        return set_prio::run(cli.json, args);
    }
    if let Verb::Inject(args) = &cli.verb {
        return inject::run(cli.json, args);
    }
    if let Verb::Monitor(args) = &cli.verb {
        return monitor::run(cli.json, &cli.modules, args);
    }
    if matches!(&cli.verb, Verb::Run(args) if args.is_guard()) {
        return run::guard();
    }
    let mut registry = Registry::builtin()?;
    if let Err(error) = add_modules(&mut registry, &cli.modules) {
        // Who looks at a policy, or takes it away, need not have its modules in order.
        match cli.verb {
            Verb::Show | Verb::Status(_) | Verb::Delete => eprintln!("emptcp: {error:#}"),
            _ => return Err(error),
        }
    }
    let context = Context {
        json: cli.json,
        quiet: false,
        registry,
    };
    match cli.verb {
        Verb::Apply(args) => apply::run(&context, &args),
        Verb::Chain(args) => chain::run(&context, args),
        Verb::Check(args) => check::run(&context, &args),
        Verb::Explain(args) => explain::run(&context, &args),
        Verb::Show => show::run(&context),
        Verb::Status(args) => status::run(&context, &args),
        Verb::Table(_)
        | Verb::Capture(_)
        | Verb::Connections(_)
        | Verb::Subflows(_)
        | Verb::SetPrio(_)
        | Verb::Inject(_)
        | Verb::Monitor(_) => Ok(Done::Yes),
        Verb::Delete => delete::run(&context),
        Verb::Doctor => doctor::run(&context),
        Verb::Modules(args) => modules::run(&context, &args),
        Verb::Run(args) => run::run(context, args),
        Verb::Schema => schema::run(&context),
        Verb::Replay(args) => replay::run(&context, &args),
        Verb::Bench(args) => bench::run(&context, &args),
    }
}

/// Adds the modules of the usual folders, and of those that are named.
fn add_modules(registry: &mut Registry, folders: &[PathBuf]) -> Result<()> {
    for note in registry.add_default_folders()? {
        eprintln!("emptcp: {note}");
    }
    for folder in folders {
        registry.add_folder(folder)?;
    }
    Ok(())
}

/// A reader that stops reading (`emptcp modules | head`) ends us quietly, as it does others.
fn restore_sigpipe() {
    crate::sys::default_sigpipe();
}

/// Prints what is in force otherwise than it was applied, and what an apply would do about it.
fn print_drift(drift: &[String], applied: Option<&Applied>) {
    for line in drift {
        eprintln!("emptcp: drift: {line} (apply mends it)");
    }
    for line in applied.map(Applied::drift).unwrap_or_default() {
        eprintln!("emptcp: drift: {line} (apply restores it)");
    }
}

/// Prints data as JSON.
fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Prints what is wrong with a policy: as JSON on standard output, else as
/// compilers do on standard error.
fn print_invalid(context: &Context, errors: &[Diagnostic]) -> Result<Done> {
    print_errors(context.json, errors)
}

fn print_errors(json: bool, errors: &[Diagnostic]) -> Result<Done> {
    if json {
        print_json(&serde_json::json!({ "valid": false, "errors": errors }))?;
    } else {
        for error in errors {
            eprintln!("{error}");
        }
    }
    Ok(Done::Invalid)
}

/// Reads a policy and checks it against the modules; what is wrong is printed,
/// then there is no policy.
fn load_policy(context: &Context, path: &Path) -> Result<Option<Policy>> {
    match load(path) {
        Ok(policy) => Ok(Some(policy)),
        Err(errors) => print_invalid(context, &errors).map(|_| None),
    }
}

/// Checks every step, and whether the kernel has what the modules need.
fn bind_policy<'p>(
    context: &Context,
    policy: &'p Policy,
    interfaces: &dyn InterfaceResolver,
    kernel: KernelVersion,
) -> Result<Vec<BoundChain<'p>>, Vec<Diagnostic>> {
    let modules = context.registry.modules();
    let chains = bind(policy, modules, interfaces)?;
    let mut errors = Vec::new();
    for step in chains
        .iter()
        .filter(|c| c.chain.enabled)
        .flat_map(BoundChain::steps)
    {
        let module = &modules[step.module];
        if module.since > kernel {
            errors.push(Diagnostic::new(
                &step.at,
                format!(
                    "{} needs Linux {}, this is {kernel}",
                    module.name, module.since
                ),
            ));
        }
    }
    errors.extend(disagreements(context, &chains));
    if errors.is_empty() {
        Ok(chains)
    } else {
        Err(errors)
    }
}

/// What a path may cost in one run.
fn budget() -> Budget<'static> {
    let budget = Budget::default();
    // Tests of chains that are split need no long ones: each step costs a call, of so few.
    #[cfg(feature = "failpoints")]
    if let Some(calls) = std::env::var("EMPTCP_CALLS")
        .ok()
        .and_then(|n| n.parse().ok())
    {
        return Budget {
            calls,
            groups: &|graph, _| crate::graph::apart(graph),
        };
    }
    budget
}

/// What stands behind a hook whose chains are split.
fn part_of(part: usize, parts: usize) -> String {
    if parts > 1 {
        format!(" part {part} of {parts}")
    } else {
        String::new()
    }
}

/// Modules of the policy that share a map under a name, but not its layout.
fn disagreements(context: &Context, chains: &[BoundChain<'_>]) -> Vec<Diagnostic> {
    let modules = context.registry.modules();
    let mut errors = Vec::new();
    let mut known: HashMap<(Scope, &str), (usize, Shape)> = HashMap::new();
    let enabled = chains.iter().filter(|c| c.chain.enabled);
    for step in enabled.flat_map(BoundChain::steps) {
        let maps = context.registry.object(step.module).own_maps();
        for map in maps.filter(|m| m.scope != Scope::Step) {
            let first = known
                .entry((map.scope, &map.name))
                .or_insert((step.module, map.shape));
            if first.1 != map.shape {
                let (this, other) = (&modules[step.module].name, &modules[first.0].name);
                let message = format!(
                    "{this} and {other} share the map {} but declare it differently: {}; {}",
                    map.name, map.shape, first.1
                );
                errors.push(Diagnostic::new(&step.at, message));
            }
        }
    }
    errors
}

/// Version of the running kernel.
fn running_kernel() -> Result<KernelVersion> {
    let name = nix::sys::utsname::uname().context("uname")?;
    name.release()
        .to_string_lossy()
        .parse()
        .map_err(|e: String| anyhow::anyhow!(e))
}
