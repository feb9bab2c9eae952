//! `emptcp monitor`

use std::fs;
use std::io;
use std::io::Write as _;
use std::path::PathBuf;
use std::thread;

use anyhow::Result;

use super::Done;
use super::add_modules;
use super::notices::Notices;
use super::notices::is_of_packets;
use super::print_errors;
use super::reader::Names;
use super::reader::PAUSE;
use super::reader::end_signals;
use crate::capture::Source;
use crate::datapath::Monitor;
use crate::datapath::TrackLook;
use crate::datapath::policy as policy_in_force;
use crate::datapath::time_now;
use crate::event::Event;
use crate::event::Filter;
use crate::event::Notice;
use crate::event::Selection;
use crate::event::Type;
use crate::event::line;
use crate::event::object;
use crate::event::select;
use crate::module::Registry;
use crate::params::literal;
use crate::policy::Diagnostic;
use crate::policy::Fragment;
use crate::policy::Place;
use crate::policy::Policy;
use crate::policy::quantity;
use crate::policy::quantity::Prefix;
use crate::policy::unchanged;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Events of these types; all of them if none is given.
    #[arg(value_enum, value_name = "TYPE")]
    types: Vec<Type>,
    /// End after so many events.
    #[arg(long, short, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Of the connection with this token, that of its client or of its server; may be repeated.
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    token: Vec<u32>,
    /// With an address in this prefix, of the subflow or announced; may be repeated.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    address: Vec<Prefix>,
    /// With this port at either end of the subflow; may be repeated.
    #[arg(long, value_name = "PORT")]
    port: Vec<u16>,
    /// At this interface, a name or a pattern such as "wwan*"; may be repeated.
    #[arg(long, value_name = "INTERFACE")]
    dev: Vec<String>,
    /// That an expression of selectors takes for certain: JSON as in "select" of a policy, or
    /// @FILE.
    #[arg(long, value_name = "EXPR")]
    select: Option<String>,
}

fn token(text: &str) -> Result<u32, String> {
    // As ss prints it too, without 0x.
    let bare = u32::from_str_radix(text, 16)
        .ok()
        .filter(|_| text.len() == 8);
    let parsed = || quantity::token(&literal(text, &Place::root("")));
    bare.map_or_else(|| parsed().map_err(|e| e.message), Ok)
}

fn prefix(text: &str) -> Result<Prefix, String> {
    quantity::prefix(&literal(text, &Place::root(""))).map_err(|e| e.message)
}

impl Args {
    fn wants(&self, r#type: Type) -> bool {
        self.types.is_empty() || self.types.contains(&r#type)
    }

    /// Reads the expression; the policy in force has the shared ones that it uses.
    fn selection(&self, folders: &[PathBuf]) -> Result<Result<Selection, Vec<Diagnostic>>> {
        let text = self.select.as_deref().unwrap_or_default();
        let fragment = match text.strip_prefix('@') {
            Some(file) => match fs::read(file) {
                Ok(bytes) => Fragment {
                    name: file.to_owned(),
                    bytes,
                },
                Err(error) => {
                    let message = format!("cannot be read: {error}");
                    return Ok(Err(vec![Diagnostic::of_file(file, message)]));
                }
            },
            None => Fragment {
                name: "--select".to_owned(),
                bytes: text.as_bytes().to_vec(),
            },
        };
        let mut registry = Registry::builtin()?;
        add_modules(&mut registry, folders)?;
        let policy = match policy_in_force()? {
            Some(in_force) => unchanged(&in_force.policy),
            None => Ok(Policy::default()),
        };
        Ok(policy.and_then(|policy| select(&fragment, &policy, registry.modules())))
    }
}

pub(super) fn run(json: bool, folders: &[PathBuf], args: &Args) -> Result<Done> {
    let selection = match &args.select {
        Some(_) => match args.selection(folders)? {
            Ok(selection) => Some(selection),
            Err(errors) => return print_errors(json, &errors),
        },
        None => None,
    };
    let signals = end_signals()?;
    let of_packets = args.types.is_empty() || args.types.iter().copied().any(is_of_packets);
    let mut monitor = of_packets.then(Monitor::open).transpose()?;
    let mut notices = Notices::default();
    notices.want(|r#type| args.wants(r#type))?;
    let mut sink = Sink {
        json,
        filter: Filter {
            types: args.types.clone(),
            tokens: args.token.clone(),
            addresses: args.address.clone(),
            ports: args.port.clone(),
            interfaces: args.dev.clone(),
        },
        look: TrackLook::open()?,
        selection,
        most: args.count,
        names: Names::learn()?,
        written: 0,
        lost: 0,
    };
    eprintln!("emptcp: monitoring, until a signal (Ctrl-C) ends it");
    let mut gone = false;
    while !sink.is_full() && signals.read_signal()?.is_none() {
        let before = sink.written;
        if let Some(monitor) = &mut monitor {
            gone =
                !monitor.read(&mut |event, source| sink.event(event, source))? && !sink.is_full();
            if gone {
                break;
            }
            sink.lost(monitor)?;
        }
        sink.notices(notices.look(false)?)?;
        io::stdout().flush()?;
        if sink.written == before {
            thread::sleep(PAUSE);
        }
    }
    if let Some(monitor) = &mut monitor {
        monitor.end(&mut |event, source| sink.event(event, source))?;
        sink.lost(monitor)?;
    }
    sink.notices(notices.look(true)?)?;
    io::stdout().flush()?;
    eprintln!("emptcp: {} events, {} lost", sink.written, sink.lost);
    if gone {
        eprintln!("emptcp: the policy that was read is gone, or tells of no events any more");
    }
    Ok(Done::Yes)
}

struct Sink {
    json: bool,
    filter: Filter,
    selection: Option<Selection>,
    look: TrackLook,
    most: Option<u64>,
    names: Names,
    written: u64,
    lost: u64,
}

impl Sink {
    fn is_full(&self) -> bool {
        self.most.is_some_and(|most| self.written >= most)
    }

    /// Writes an event; whether more are wanted.
    fn event(&mut self, event: &Event, source: Option<&Source>) -> Result<bool> {
        if self.is_full() {
            return Ok(false);
        }
        if !self.filter.takes(event) {
            return Ok(true);
        }
        let name = self.names.name_of(event.ifindex)?;
        if !self.filter.is_at(&name) {
            return Ok(true);
        }
        if let Some(selection) = &self.selection
            && !selection.takes(event, &|event| self.look.look(event))?
        {
            return Ok(true);
        }
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", object(event, &name, source))?;
        } else {
            writeln!(out, "{}", line(event, &name, source))?;
        }
        self.written += 1;
        Ok(!self.is_full())
    }

    /// Writes what is told beside events of packets.
    fn notices(&mut self, notices: Vec<Notice>) -> Result<()> {
        let taken = (self.selection.as_ref()).is_none_or(Selection::takes_anything);
        for notice in notices {
            if self.is_full() {
                break;
            }
            if !taken || !self.filter.takes_notice(&notice) {
                continue;
            }
            let time = time_now()?;
            let mut out = io::stdout().lock();
            if self.json {
                writeln!(out, "{}", notice.object(time))?;
            } else {
                writeln!(out, "{}", notice.line(time))?;
            }
            self.written += 1;
        }
        Ok(())
    }

    /// Writes how many were lost, where it has become more.
    fn lost(&mut self, monitor: &Monitor) -> Result<()> {
        let lost = monitor.lost()?;
        if lost == self.lost {
            return Ok(());
        }
        let more = lost - self.lost.min(lost);
        self.lost = lost;
        let time = monitor.now()?;
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", crate::event::lost(time, more, lost))?;
        } else {
            writeln!(
                out,
                "{} lost {more} events, {lost} in all",
                crate::event::seconds(time)
            )?;
        }
        Ok(())
    }
}
