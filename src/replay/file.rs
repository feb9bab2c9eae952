//! Captures in files: pcap and pcapng.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Read;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use pcap_file::DataLink;
use pcap_file::Endianness;
use pcap_file::PcapError;
use pcap_file::TsResolution;
use pcap_file::pcap::PcapHeader;
use pcap_file::pcap::PcapReader;
use pcap_file::pcap::PcapWriter;
use pcap_file::pcap::RawPcapPacket;
use pcap_file::pcapng::Block;
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;

const SECOND: u64 = 1_000_000_000;
/// What a pcapng file begins with, in either byte order.
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Unit of the times of an interface that says nothing of it: 10^-6 seconds.
const MICROSECONDS: u8 = 6;
/// The same in what is written: 10^-9 seconds.
const NANOSECONDS: u8 = 9;
/// The most bytes of a packet in a pcap file (pcap-savefile(5)): an edit may make packets longer
/// than any that was captured.
const SNAPLEN: u32 = 262_144;

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One interface, times in micro- or nanoseconds (pcap-savefile(5)).
    Pcap {
        /// Times are in nanoseconds.
        nanoseconds: bool,
    },
    /// Several interfaces (draft-ietf-opsawg-pcapng).
    Pcapng,
}

impl Format {
    /// The form that the name of a file asks for; that of the capture where it says nothing.
    pub fn by_name(path: &Path, capture: Format) -> Format {
        match (path.extension().and_then(|e| e.to_str()), capture) {
            (Some("pcapng"), _) => Format::Pcapng,
            (Some("pcap"), Format::Pcapng) => Format::Pcap { nanoseconds: true },
            _ => capture,
        }
    }
}

/// An interface that packets were captured on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What its packets begin with (pcap-linktype(7)).
    pub link: u32,
    /// Its name, where the file tells it.
    pub name: Option<String>,
}

/// A packet of a capture.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    /// Which interface, in the order in which the file tells of them.
    pub interface: usize,
    /// Nanoseconds since the epoch, where the file tells it.
    pub time: Option<u64>,
    /// What was captured of it.
    pub data: Cow<'a, [u8]>,
    /// Its length on the wire, in bytes.
    pub length: u32,
}

/// What stands in a capture.
#[derive(Debug)]
pub enum Record<'a> {
    /// The file's form; the first one.
    Start(Format),
    /// An interface; before its packets.
    Interface(Interface),
    /// A packet.
    Packet(Packet<'a>),
}

/// How times of an interface are counted.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Units in a second.
    units: u64,
    /// Seconds to be added.
    offset: i64,
}

impl Times {
    fn of(block: &InterfaceDescriptionBlock<'_>) -> Option<Self> {
        let (mut resolution, mut offset) = (MICROSECONDS, 0);
        for option in &block.options {
            match option {
                InterfaceDescriptionOption::IfTsResol(own) => resolution = *own,
                InterfaceDescriptionOption::IfTsOffset(own) => offset = own.cast_signed(),
                _ => {}
            }
        }
        let power = u32::from(resolution & 0x7f);
        let units = match resolution & 0x80 {
            0 => 10u64.checked_pow(power)?,
            _ => 1u64.checked_shl(power)?,
        };
        Some(Self { units, offset })
    }

    /// In nanoseconds since the epoch.
    fn nanoseconds(self, units: u128) -> u64 {
        let nanoseconds = (units * u128::from(SECOND) / u128::from(self.units)) as i128;
        let sum = nanoseconds + i128::from(self.offset) * i128::from(SECOND);
        u64::try_from(sum).unwrap_or(0)
    }
}

/// Reads a capture from its start to its end.
///
/// # Errors
///
/// The file cannot be read, is no capture, ends within a packet or is damaged; an error of `on`.
pub fn read(path: &Path, on: &mut dyn FnMut(Record<'_>) -> Result<()>) -> Result<()> {
    read_records(path, on).with_context(|| path.display().to_string())
}

fn read_records(path: &Path, on: &mut dyn FnMut(Record<'_>) -> Result<()>) -> Result<()> {
    let mut file = File::open(path)?;
    let mut first = Vec::new();
    (&mut file)
        .take(SECTION.len() as u64)
        .read_to_end(&mut first)?;
    if first.is_empty() {
        bail!("the file is empty");
    }
    let whole = io::Cursor::new(first.clone()).chain(file);
    let reader = |error| match error {
        PcapError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            anyhow!("the capture ends within its header")
        }
        PcapError::IoError(e) => e.into(),
        _ => anyhow!("this is no capture: neither pcap nor pcapng"),
    };
    if first == SECTION {
        read_pcapng(PcapNgReader::new(whole).map_err(reader)?, on)
    } else {
        read_pcap(PcapReader::new(whole).map_err(reader)?, on)
    }
}

/// What is wrong behind so many packets.
fn wrong(error: PcapError, packets: u64) -> anyhow::Error {
    match error {
        PcapError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => anyhow!(
            "the capture is truncated: the file ends within what follows packet {packets}; to keep \
             the whole ones: editcap IN OUT"
        ),
        PcapError::IoError(e) => e.into(),
        other => anyhow!("the capture is damaged behind packet {packets}: {other}"),
    }
}

fn read_pcap<R: Read>(
    mut reader: PcapReader<R>,
    on: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    let header = reader.header();
    let nanoseconds = header.ts_resolution == TsResolution::NanoSecond;
    on(Record::Start(Format::Pcap { nanoseconds }))?;
    on(Record::Interface(Interface {
        link: header.datalink.into(),
        name: None,
    }))?;
    let unit = if nanoseconds { 1 } else { 1_000 };
    let mut packets = 0;
    // Raw: else packets that were captured in part are taken for damaged ones.
    while let Some(packet) = reader.next_raw_packet() {
        let packet = packet.map_err(|e| wrong(e, packets))?;
        packets += 1;
        let time = u64::from(packet.ts_sec) * SECOND + u64::from(packet.ts_frac) * unit;
        on(Record::Packet(Packet {
            interface: 0,
            time: Some(time),
            data: packet.data,
            length: packet.orig_len,
        }))?;
    }
    Ok(())
}

fn read_pcapng<R: Read>(
    mut reader: PcapNgReader<R>,
    on: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    on(Record::Start(Format::Pcapng))?;
    // Of all interfaces, and how many of them belong to sections before.
    let mut times: Vec<Times> = Vec::new();
    let mut earlier = 0;
    let mut packets = 0;
    while let Some(block) = reader.next_block() {
        let packet = match block.map_err(|e| wrong(e, packets))? {
            Block::SectionHeader(_) => {
                earlier = times.len();
                continue;
            }
            Block::InterfaceDescription(block) => {
                let number = times.len();
                times.push(Times::of(&block).with_context(|| {
                    format!("interface {number} counts time in units that are not known here")
                })?);
                on(Record::Interface(Interface {
                    link: block.linktype.into(),
                    name: block.options.iter().find_map(|o| match o {
                        InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                        _ => None,
                    }),
                }))?;
                continue;
            }
            Block::EnhancedPacket(block) => Packet {
                interface: earlier.saturating_add(block.interface_id as usize),
                // The reader takes all units for nanoseconds: set right below.
                time: Some(block.timestamp.as_nanos() as u64),
                length: block.original_len,
                data: block.data,
            },
            Block::SimplePacket(block) => {
                // Its captured length is not told: without what fills the block up.
                let captured = block.data.len().min(block.original_len as usize);
                Packet {
                    interface: earlier,
                    time: None,
                    length: block.original_len,
                    data: block.data[..captured].to_vec().into(),
                }
            }
            // Names, statistics, secrets.
            _ => continue,
        };
        packets += 1;
        let Some(own) = times.get(packet.interface) else {
            bail!("packet {packets} is of an interface that the file does not describe");
        };
        let time = packet.time.map(|units| own.nanoseconds(units.into()));
        on(Record::Packet(Packet { time, ..packet }))?;
    }
    Ok(())
}

/// A capture that is written.
pub struct Writer {
    format: Format,
    out: Out,
    links: Vec<u32>,
}

/// A pcap file begins when its link type is known.
enum Out {
    Begins(Option<BufWriter<File>>),
    Pcap(PcapWriter<BufWriter<File>>),
    Pcapng(PcapNgWriter<BufWriter<File>>),
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// Creates the file.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn create(path: &Path, format: Format) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let file = BufWriter::new(file);
        let out = match format {
            Format::Pcap { .. } => Out::Begins(Some(file)),
            Format::Pcapng => {
                let section = SectionHeaderBlock {
                    endianness: Endianness::native(),
                    ..Default::default()
                };
                Out::Pcapng(PcapNgWriter::with_section_header(file, section)?)
            }
        };
        Ok(Self {
            format,
            out,
            links: Vec::new(),
        })
    }

    /// Tells of an interface.
    ///
    /// # Errors
    ///
    /// The file cannot be written; a pcap file has packets of one link type only.
    pub fn interface(&mut self, interface: &Interface) -> Result<()> {
        let first = self.links.first().copied();
        self.links.push(interface.link);
        match &mut self.out {
            Out::Begins(file) => {
                let nanoseconds = self.format == (Format::Pcap { nanoseconds: true });
                let header = PcapHeader {
                    snaplen: SNAPLEN,
                    datalink: DataLink::from(interface.link),
                    ts_resolution: if nanoseconds {
                        TsResolution::NanoSecond
                    } else {
                        TsResolution::MicroSecond
                    },
                    endianness: Endianness::native(),
                    ..Default::default()
                };
                let file = file.take().context("the file has begun")?;
                self.out = Out::Pcap(PcapWriter::with_header(file, header)?);
            }
            Out::Pcap(_) if first == Some(interface.link) => {}
            Out::Pcap(_) => {
                bail!("a pcap file has packets of one link type only: write a pcapng file")
            }
            Out::Pcapng(out) => {
                let name = interface.name.as_deref().map(Cow::Borrowed);
                let mut options = vec![InterfaceDescriptionOption::IfTsResol(NANOSECONDS)];
                options.extend(name.map(InterfaceDescriptionOption::IfName));
                out.write_pcapng_block(InterfaceDescriptionBlock {
                    linktype: DataLink::from(interface.link),
                    snaplen: 0,
                    options,
                })?;
            }
        }
        Ok(())
    }

    /// Writes a packet.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or was told of no such interface.
    pub fn packet(&mut self, packet: &Packet<'_>) -> Result<()> {
        let time = packet.time.unwrap_or(0);
        let data = Cow::Borrowed(&*packet.data);
        match &mut self.out {
            Out::Begins(_) => bail!("a packet of no interface"),
            Out::Pcap(out) => {
                let unit = match out.ts_resolution() {
                    TsResolution::NanoSecond => 1,
                    TsResolution::MicroSecond => 1_000,
                };
                out.write_raw_packet(&RawPcapPacket {
                    ts_sec: (time / SECOND) as u32,
                    ts_frac: (time % SECOND / unit) as u32,
                    incl_len: data.len() as u32,
                    orig_len: packet.length,
                    data,
                })?;
            }
            Out::Pcapng(out) => {
                out.write_pcapng_block(EnhancedPacketBlock {
                    interface_id: packet.interface as u32,
                    timestamp: Duration::from_nanos(time),
                    original_len: packet.length,
                    data,
                    options: Vec::new(),
                })?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn finish(self) -> Result<()> {
        match self.out {
            Out::Begins(_) => {}
            Out::Pcap(out) => out.into_writer().flush()?,
            Out::Pcapng(out) => out.into_inner().flush()?,
        }
        Ok(())
    }
}
