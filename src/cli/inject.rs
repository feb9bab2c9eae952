//! `emptcp inject`: an option of Multipath TCP, at once, into a frame of its own.

use std::io::Read as _;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use serde::Serialize;

use super::Done;
use super::print_json;
use super::running_kernel;
use crate::abi::SubflowKey;
use crate::abi::TrackState;
use crate::abi::TrackSubflow;
use crate::abi::WayFlags;
use crate::abi::from_bytes;
use crate::datapath::Frames;
use crate::frame::Frame;
use crate::frame::Opt;
use crate::frame::To;
use crate::frame::name;
use crate::frame::role;
use crate::module::TableKey;
use crate::policy::Place;
use crate::policy::nearest;
use crate::table_text;
use crate::track::ConnKey;
use crate::track::Ends;
use crate::track::Track;
use crate::track::connection_of;
use crate::track::token_text;

/// Which subflows.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// All subflows of the connection whose server has this token.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Of these the ones with this address id, at either end.
    #[arg(long, value_name = "ID", requires = "token")]
    id: Option<u8>,
    /// Zone of the subflow.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    zone: u32,
    /// Print the frames, and send nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "emptcp inject [OPTIONS] --to <TO> <SUBFLOW|--token TOKEN> <OPTION>")]
pub(super) struct Args {
    /// The subflow, as `emptcp subflows` prints it or as a key of a table
    /// ("10.0.0.1:999-10.0.0.2:80"), either end first; and the option in JSON, as the actor that
    /// puts one into packets has it ('{"option": "mp_prio", "backup": true}'), or "-": on standard
    /// input.
    #[arg(required = true, num_args = 1..=2, value_name = "SUBFLOW OPTION")]
    words: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// Who gets it.
    #[arg(long, value_enum)]
    to: To,
}

impl Which {
    /// Whether a token stands for subflows.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Of one or two words the subflow, where no token stands for it, and the other one. (clap knows
    /// a first word that may be missing only where no option follows it.)
    pub(super) fn split<'w>(&self, words: &'w [String]) -> (Option<&'w str>, &'w str) {
        match (words, &self.token) {
            ([subflow, last], None) => (Some(subflow), last),
            ([last], Some(_)) => (None, last),
            ([_], None) => wrong_usage("expected a subflow, or --token, and what is sent"),
            _ => wrong_usage("expected a subflow or --token, not both"),
        }
    }
}

/// Ends the process as clap does where the command line is wrong.
pub(super) fn wrong_usage(message: &str) -> ! {
    let kind = clap::error::ErrorKind::ValueValidation;
    super::command().error(kind, message).exit()
}

/// A frame that was sent.
#[derive(Debug, Serialize)]
pub(super) struct Sent {
    pub(super) subflow: String,
    zone: u32,
    token: Option<String>,
    /// Who gets it: `client` or `server`, where that is known.
    pub(super) to: Option<&'static str>,
    pub(super) receiver: String,
    option: String,
    interface: Option<String>,
    by: Option<&'static str>,
    seq: Option<u32>,
    ack: Option<u32>,
    window: Option<u16>,
    tsval: Option<u32>,
    tsecr: Option<u32>,
    /// Hexadecimal, with zeros for a key; of what was not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<String>,
    /// Who wants a subflow to be backup; of MP_PRIO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wanted_by: Option<Vec<String>>,
    sent: bool,
}

pub(super) fn run(json: bool, args: &Args) -> Result<Done> {
    let (subflow, option) = args.which.split(&args.words);
    let text = match option {
        "-" => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.context("cannot read the option from standard input")?;
            text
        }
        text => text.to_owned(),
    };
    send(json, subflow, &args.which, args.to, &Opt::parse(&text)?)
}

/// Sends an option to one or both ends of some subflows: all frames, or none if one cannot be made.
fn send(json: bool, subflow: Option<&str>, which: &Which, to: To, option: &Opt) -> Result<Done> {
    let wanted = Wanted::of(subflow, which)?;
    let frames = Frames::open(running_kernel()?)?;
    let track = frames.track()?;
    let mut ready = Vec::new();
    for (ends, sub) in wanted.find(&track)? {
        for direction in to.directions(&ends, &sub)? {
            ready.push((ends, sub, direction, frames.frame(&ends, direction)?));
        }
    }
    let mut all = Vec::new();
    for (ends, sub, direction, frame) in &ready {
        // Looked at before, so that it is all or none.
        frame.ack.bytes(option)?;
        if !which.dry_run {
            // Once more: a packet may have come since.
            frames.send(&frames.frame(ends, *direction)?, option)?;
        }
        let mut sent = Sent::new(ends, sub, *direction, option);
        sent.take(frame, option, which.dry_run)?;
        all.push(sent);
    }
    if json {
        print_json(&all)?;
    } else {
        for (sent, (.., frame)) in all.iter().zip(&ready) {
            print(sent, frame);
        }
    }
    Ok(Done::Yes)
}

/// Sends an option to one or both ends of a subflow, as a program asks; how many frames.
///
/// # Errors
///
/// There is no such subflow, its frame cannot be made, or the kernel's.
pub(super) fn at_once(subflow: &str, zone: u32, to: To, option: &Opt) -> Result<usize> {
    let ends = Ends {
        zone,
        ..ends(subflow)?
    };
    let frames = Frames::open(running_kernel()?)?;
    let sub = frames.subflow(&ends)?;
    let sub = sub.ok_or_else(|| anyhow!("the tracker knows no subflow {}", name(&ends)))?;
    let directions = to.directions(&ends, &sub)?;
    for direction in &directions {
        // Looked at before, so that it is all or none.
        frames.frame(&ends, *direction)?.ack.bytes(option)?;
    }
    for direction in &directions {
        frames.send(&frames.frame(&ends, *direction)?, option)?;
    }
    Ok(directions.len())
}

impl Sent {
    /// What would be sent in this direction.
    pub(super) fn new(ends: &Ends, sub: &TrackSubflow, direction: usize, option: &Opt) -> Self {
        Self {
            subflow: name(ends),
            zone: ends.zone,
            token: connection_of(sub).map(|key| token_text(key.token)),
            to: role(sub, 1 - direction),
            receiver: ends.sender_and_receiver(direction).1.to_string(),
            option: option.text().to_owned(),
            interface: None,
            by: None,
            seq: None,
            ack: None,
            window: None,
            tsval: None,
            tsecr: None,
            frame: None,
            wanted_by: None,
            sent: false,
        }
    }

    /// That it was sent in this frame; with `dry_run` that it would be.
    pub(super) fn take(&mut self, frame: &Frame, option: &Opt, dry_run: bool) -> Result<()> {
        if dry_run {
            let bytes = frame.ack.bytes(&option.without_key())?;
            self.frame = Some(bytes.iter().map(|b| format!("{b:02x}")).collect());
        }
        let (ack, timestamps) = (&frame.ack, frame.ack.timestamps);
        self.interface = Some(frame.place.interface().to_owned());
        self.by = Some(frame.place.how());
        (self.seq, self.ack, self.window) = (Some(ack.seq), Some(ack.ack), Some(ack.window));
        self.tsval = timestamps.map(|(val, _)| val);
        self.tsecr = timestamps.map(|(_, echoed)| echoed);
        self.sent = !dry_run;
        Ok(())
    }
}

pub(super) fn print(sent: &Sent, frame: &Frame) {
    let to = sent.to.map_or(String::new(), |to| format!("{to} "));
    let verb = if sent.sent { "sent" } else { "would be sent" };
    println!(
        "{}: {} {verb} to {to}{} ({}, {})",
        sent.subflow,
        sent.option,
        sent.receiver,
        frame.place.how(),
        frame.place.interface()
    );
    if let Some(hex) = &sent.frame {
        println!("  {}", frame.ack.text());
        println!("  {hex}");
    }
}

/// What was asked for.
pub(super) enum Wanted {
    Subflow(Ends),
    Connection { key: ConnKey, id: Option<u8> },
}

impl Wanted {
    pub(super) fn of(subflow: Option<&str>, which: &Which) -> Result<Self> {
        let zone = which.zone;
        if let Some(word) = subflow {
            return Ok(Self::Subflow(Ends {
                zone,
                ..ends(word)?
            }));
        }
        let word = which.token.as_deref().unwrap_or_default();
        let keys = table_text::keys(TableKey::Token, word, &Place::root(""));
        let keys = keys.map_err(|error| anyhow!("--token: {}", error.message))?;
        let bytes = keys.first().and_then(|key| key.first_chunk());
        let bytes = bytes.ok_or_else(|| anyhow!("--token: not a token"))?;
        let token = u32::from_ne_bytes(*bytes);
        Ok(Self::Connection {
            key: ConnKey { zone, token },
            id: which.id,
        })
    }

    pub(super) fn find(&self, track: &Track) -> Result<Vec<(Ends, TrackSubflow)>> {
        match self {
            Self::Subflow(ends) => match track.subflows.get(ends) {
                Some(sub) => Ok(vec![(*ends, *sub)]),
                None if track.half_open.contains_key(ends) => {
                    bail!("the handshake of {} is not over", name(ends))
                }
                None => Err(unknown(ends, track)),
            },
            Self::Connection { key, id } => {
                let mine = track.subflows.iter().filter(|(_, sub)| {
                    connection_of(sub) == Some(*key)
                        && TrackState(sub.state.into()) == TrackState::EMPTCP_TRACK_ESTABLISHED
                        && id.is_none_or(|id| has_id(sub, id))
                });
                let mine: Vec<_> = mine.map(|(ends, sub)| (*ends, *sub)).collect();
                if mine.is_empty() {
                    let token = token_text(key.token);
                    if !track.connections.contains_key(key) {
                        let all = track.connections.keys().map(|key| token_text(key.token));
                        let all: Vec<String> = all.collect();
                        let hint = hint(&token, &all);
                        bail!("the tracker knows no connection of token {token}{hint}");
                    }
                    let with = id.map_or(String::new(), |id| format!(" with address id {id}"));
                    bail!("connection {token} has no established subflow{with}");
                }
                Ok(mine)
            }
        }
    }
}

fn has_id(sub: &TrackSubflow, id: u8) -> bool {
    let known = WayFlags::EMPTCP_WAY_HAS_ID.0;
    let mut ways = sub.way.iter();
    ways.any(|way| u32::from(way.flags) & known != 0 && way.addr_id == id)
}

/// The ends of a subflow, as it is printed or as a key of a table.
fn ends(word: &str) -> Result<Ends> {
    let key = word.replace(['→', '↔'], "-").replace(' ', "");
    let keys = table_text::keys(TableKey::Subflow, &key, &Place::root(""));
    let keys = keys.map_err(|error| anyhow!("{word:?}: {}", error.message))?;
    let key: Option<SubflowKey> = keys.first().and_then(|key| from_bytes(key));
    let key = key.ok_or_else(|| anyhow!("{word:?} is no subflow"))?;
    Ok(Ends::of_packet(&key).0)
}

/// That there is no such subflow, and the one that is most like it.
fn unknown(ends: &Ends, track: &Track) -> anyhow::Error {
    let all: Vec<String> = track.subflows.keys().map(name).collect();
    let hint = hint(&name(ends), &all);
    let zones: Vec<u32> = (track.subflows.keys())
        .filter(|known| known.ends == ends.ends)
        .map(|known| known.zone)
        .collect();
    let zone = match zones.first() {
        Some(zone) => format!("; there is one in zone {zone} (--zone)"),
        None => hint,
    };
    anyhow!("the tracker knows no subflow {}{zone}", name(ends))
}

fn hint(wanted: &str, all: &[String]) -> String {
    match nearest(wanted, all.iter().map(String::as_str)) {
        Some(near) => format!("; the nearest is {near}"),
        None => String::new(),
    }
}
