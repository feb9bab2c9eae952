//! `emptcp capture`

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::PathBuf;
use std::thread;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use super::Done;
use super::reader::PAUSE;
use super::reader::end_signals;
use super::reader::name_of;
use crate::capture::Packet;
use crate::capture::Pcapng;
use crate::capture::Stats;
use crate::capture::line;
use crate::capture::object;
use crate::datapath::Capture;
use crate::datapath::Lost;
use crate::datapath::Source;
use crate::datapath::interfaces;
use crate::interface::Interfaces;
use crate::policy::nearest;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write a pcapng file for Wireshark instead of lines; - is standard output.
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after so many packets.
    #[arg(long, short, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Packets that this chain copies, and no others.
    #[arg(long, value_name = "NAME")]
    chain: Option<String>,
    /// Keys and HMACs too, from steps that give them ("keys": true).
    #[arg(long)]
    keys: bool,
}

pub(super) fn run(json: bool, args: &Args) -> Result<Done> {
    let signals = end_signals()?;
    let mut capture = Capture::open(args.keys)?;
    if let Some(chain) = &args.chain
        && !capture.chains().any(|known| known == chain)
    {
        let hint = nearest(chain, capture.chains());
        let hint = hint.map(|near| format!("; did you mean {near:?}?"));
        bail!(
            "the policy in force has no chain {chain:?}{}",
            hint.unwrap_or_default()
        );
    }
    eprintln!("emptcp: capturing, until a signal (Ctrl-C) ends it");
    let mut sink = Sink {
        out: Out::open(args.write.as_deref(), json)?,
        args,
        interfaces: interfaces()?,
        stats: BTreeMap::new(),
        written: 0,
    };
    if args.keys {
        eprintln!("emptcp: what is captured can hold keys of connections: keep it secret");
    }
    let mut gone = false;
    while !sink.is_full() && signals.read_signal()?.is_none() {
        let before = sink.written;
        gone = !capture.read(&mut |packet, source| sink.packet(packet, source))? && !sink.is_full();
        if gone {
            break;
        }
        sink.out.flush()?;
        if sink.written == before {
            thread::sleep(PAUSE);
        }
    }
    let lost = capture.end(&mut |packet, source| sink.packet(packet, source))?;
    sink.finish(&capture, &lost)?;
    if gone {
        eprintln!("emptcp: the policy that was read is gone, or copies no packets any more");
    }
    Ok(Done::Yes)
}

/// Where packets go.
enum Out {
    Pcapng(Box<Pcapng<BufWriter<Box<dyn Write>>>>),
    Lines(io::Stdout),
    Json(io::Stdout),
}

impl Out {
    fn open(file: Option<&std::path::Path>, json: bool) -> Result<Self> {
        let Some(path) = file else {
            let out = io::stdout();
            return Ok(if json {
                Self::Json(out)
            } else {
                Self::Lines(out)
            });
        };
        let file: Box<dyn Write> = if path.as_os_str() == "-" {
            Box::new(io::stdout())
        } else {
            let create = || {
                use std::os::unix::fs::OpenOptionsExt as _;
                // What packets hold is for the owner alone.
                File::options()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(path)
            };
            Box::new(create().with_context(|| format!("cannot create {}", path.display()))?)
        };
        Ok(Self::Pcapng(Box::new(Pcapng::new(BufWriter::new(file))?)))
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Pcapng(out) => out.flush(),
            Self::Lines(out) | Self::Json(out) => Ok(out.flush()?),
        }
    }
}

struct Sink<'a> {
    out: Out,
    args: &'a Args,
    interfaces: Interfaces,
    stats: BTreeMap<u32, Stats>,
    written: u64,
}

impl Sink<'_> {
    fn is_full(&self) -> bool {
        self.args.count.is_some_and(|count| self.written >= count)
    }

    fn is_wanted(&self, source: Option<&Source>) -> bool {
        match &self.args.chain {
            Some(chain) => source.is_some_and(|source| source.chain == *chain),
            None => true,
        }
    }

    /// Writes a packet; whether more are wanted.
    fn packet(&mut self, packet: &Packet<'_>, source: Option<&Source>) -> Result<bool> {
        if self.is_full() {
            return Ok(false);
        }
        if !self.is_wanted(source) {
            return Ok(true);
        }
        if self.interfaces.by_index(packet.ifindex).is_none() {
            // It is newer than the capture.
            self.interfaces = interfaces()?;
        }
        let name = name_of(&self.interfaces, packet.ifindex);
        match &mut self.out {
            Out::Pcapng(out) => out.packet(packet, &name, source)?,
            Out::Lines(out) => writeln!(out, "{}", line(packet, &name, source))?,
            Out::Json(out) => writeln!(out, "{}", object(packet, &name, source))?,
        }
        self.written += 1;
        self.stats.entry(packet.ifindex).or_default().received += 1;
        Ok(!self.is_full())
    }

    /// Says what was lost, and closes the file.
    fn finish(mut self, capture: &Capture, lost: &[Lost]) -> Result<()> {
        let mut dropped = 0;
        for lost in lost {
            if !self.is_wanted(capture.source(lost.step)) {
                continue;
            }
            dropped += lost.records;
            let stats = self.stats.entry(lost.ifindex).or_default();
            stats.received += lost.records;
            stats.dropped += lost.records;
        }
        self.out.flush()?;
        if let Out::Pcapng(out) = self.out {
            let name = |index| name_of(&self.interfaces, index);
            out.end(capture.now()?, &self.stats, name)?.flush()?;
        }
        eprintln!("emptcp: {} packets captured, {dropped} lost", self.written);
        Ok(())
    }
}
