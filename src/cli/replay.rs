//! `emptcp replay`

mod report;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;

use self::report::Report;
use self::report::Seen;
use super::Context;
use super::Done;
use super::bind_policy;
use super::budget;
use super::load_policy;
use super::print_invalid;
use super::running_kernel;
use crate::datapath::Ran;
use crate::datapath::Replay;
use crate::datapath::Verdict;
use crate::datapath::isolate;
use crate::graph::with_tracker;
use crate::module::Hook;
use crate::params::AnyInterface;
use crate::plan::at_hook;
use crate::plan::runs_at;
use crate::policy::Policy;
use crate::replay::clock::Clock;
use crate::replay::file;
use crate::replay::file::Format;
use crate::replay::file::Interface;
use crate::replay::file::Packet;
use crate::replay::file::Record;
use crate::replay::file::Writer;
use crate::replay::link::Link;
use crate::table;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy (-: standard input), or a folder of fragments (*.json).
    policy: PathBuf,
    /// A capture (pcap or pcapng): Ethernet, Linux cooked or raw IP.
    capture: PathBuf,
    /// Write what comes out: pcap or pcapng, by the name's extension, else as the capture is.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The hook whose chains the packets meet; needed where the policy has chains at several.
    #[arg(long)]
    hook: Option<Hook>,
    /// Only chains that run at an interface of this name; else all of the hook.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Say for each packet which steps it met and what they decided; with --json a line each.
    #[arg(long)]
    explain: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Done> {
    let Some(policy) = load_policy(context, &args.policy)? else {
        return Ok(Done::Invalid);
    };
    // What is in the capture need not have happened on this machine.
    let interfaces = &AnyInterface;
    let interface = args.interface.as_deref();
    let kernel = running_kernel()?;
    let modules = context.registry.modules();
    let whole = with_tracker(&policy, modules);
    let bound = match bind_policy(context, &whole, interfaces, kernel) {
        Ok(bound) => bound,
        Err(errors) => return print_invalid(context, &errors),
    };
    let hook = choose_hook(&policy, args.hook, interface)?;
    let planned = at_hook(&bound, modules, hook, interface, &budget())
        .and_then(|parts| Ok((parts, table::planned(&policy, interfaces)?)));
    let (parts, tables) = match planned {
        Ok(planned) => planned,
        Err(errors) => return print_invalid(context, &errors),
    };

    let capture = Capture::look_at(&args.capture)?;
    let mut output = match &args.output {
        Some(path) => Some(capture.output(&args.capture, path)?),
        None => None,
    };
    isolate()?;
    let mut replay = Replay::new(&context.registry, kernel, hook, parts, &tables)?;
    let mut report = Report::new(context, &replay, args.explain)?;
    let mut clock = Clock::default();
    let mut links = Vec::new();
    file::read(&args.capture, &mut |record| match record {
        Record::Start(_) => Ok(()),
        Record::Interface(interface) => {
            links.push(Link::of(interface.link));
            match &mut output {
                Some(output) => output.interface(&interface),
                None => Ok(()),
            }
        }
        Record::Packet(packet) => {
            let time = clock.at(packet.time);
            let link = links.get(packet.interface).copied().flatten();
            let link = link.context("the capture has changed meanwhile")?;
            let seen = run_packet(&mut replay, link, &packet, time)?;
            report.packet(&replay, &packet, clock.since_first(), &seen)?;
            match (&mut output, seen.comes_out(&packet)) {
                (Some(output), Some(packet)) => output.packet(&packet),
                _ => Ok(()),
            }
        }
    })?;
    if let (Some(output), Some(path)) = (output, &args.output) {
        output
            .finish()
            .with_context(|| path.display().to_string())?;
    }
    report.finish(&replay)?;
    Ok(Done::Yes)
}

/// Runs a packet through the policy.
fn run_packet(replay: &mut Replay<'_>, link: Link, packet: &Packet<'_>, time: u64) -> Result<Seen> {
    let Some(framed) = link.frame(&packet.data) else {
        return Ok(Seen::NotRun(
            "it ends within its link-layer header".to_owned(),
        ));
    };
    Ok(match replay.run(framed.raw_ip, &framed.bytes, time)? {
        Ran::Done {
            verdict: Verdict::Drop,
            ..
        } => Seen::Dropped,
        Ran::Done {
            verdict,
            packet: out,
        } => Seen::CameOut {
            redirected: verdict != Verdict::Pass,
            edited: (*out != *framed.bytes).then(|| framed.unframe(out)),
        },
        Ran::Refused(error) => Seen::NotRun(format!(
            "the kernel does not take a packet of {} bytes like this one for a test run ({error})",
            framed.bytes.len()
        )),
    })
}

/// The hook that is asked for, else the one at which the policy has chains.
fn choose_hook(policy: &Policy, asked: Option<Hook>, interface: Option<&str>) -> Result<Hook> {
    let has = |hook: &Hook| policy.chains.iter().any(|c| runs_at(c, *hook, interface));
    let found: Vec<Hook> = Hook::ALL.into_iter().filter(has).collect();
    let names: Vec<&str> = found.iter().map(|h| h.name()).collect();
    let of = interface.map_or(String::new(), |name| format!(" of interface {name:?}"));
    match (asked, found.as_slice()) {
        (Some(hook), found) if found.contains(&hook) => Ok(hook),
        (None, [hook]) => Ok(*hook),
        (_, []) => bail!("the policy has no enabled chain{of}: there is nothing to replay"),
        (Some(hook), _) => bail!(
            "the policy has no enabled chain at {hook}{of}, but at {}",
            names.join(", ")
        ),
        (None, _) => bail!(
            "the policy has chains{of} at {}: say with --hook which of them the packets of the \
             capture met",
            names.join(" and at ")
        ),
    }
}

/// A capture that is whole, and whose packets can be replayed.
struct Capture {
    format: Format,
    interfaces: Vec<Interface>,
}

impl Capture {
    /// Reads it once, so that nothing is done where it cannot be replayed to its end.
    fn look_at(path: &Path) -> Result<Self> {
        let mut format = None;
        let mut interfaces: Vec<Interface> = Vec::new();
        let mut packets = 0u64;
        file::read(path, &mut |record| {
            match record {
                Record::Start(found) => format = Some(found),
                Record::Interface(interface) => interfaces.push(interface),
                Record::Packet(packet) => {
                    packets += 1;
                    let link = interfaces[packet.interface].link;
                    if Link::of(link).is_none() {
                        return Err(unknown_link(packets, link));
                    }
                }
            }
            Ok(())
        })?;
        Ok(Self {
            format: format.context("the capture has no header")?,
            interfaces,
        })
    }

    /// Creates the file for what comes out.
    fn output(&self, capture: &Path, path: &Path) -> Result<Writer> {
        let known = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        if known(path).is_some_and(|file| known(capture) == Some(file)) {
            bail!("{} is the capture itself", path.display());
        }
        let format = Format::by_name(path, self.format);
        let links = || self.interfaces.iter().map(|i| i.link);
        if matches!(format, Format::Pcap { .. }) && links().any(|l| Some(l) != links().next()) {
            bail!(
                "{}: the capture has packets of several link types, for which pcap has no room: \
                 name it .pcapng",
                path.display()
            );
        }
        Writer::create(path, format)
    }
}

fn unknown_link(packet: u64, link: u32) -> anyhow::Error {
    anyhow!(
        "packet {packet} has link type {link}, which cannot be replayed: Ethernet (1), Linux cooked \
         (113, 276) and raw IP (101, 228, 229) can"
    )
}
