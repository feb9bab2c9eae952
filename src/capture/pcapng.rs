//! Captures in the pcapng format (draft-ietf-opsawg-pcapng), as Wireshark reads them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use pcap_file::DataLink;
use pcap_file::Endianness;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsBlock;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;
use pcap_file::pcapng::blocks::section_header::SectionHeaderOption;

use super::Packet;
use super::Source;
use super::source_name;

/// Unit of timestamps: 10^-9 seconds.
const TSRESOL: u8 = 9;
/// Directions of the flags word.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// What is told of an interface at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Packets that steps selected there.
    pub(crate) received: u64,
    /// Those of them that were lost.
    pub(crate) dropped: u64,
}

/// Writes a capture.
pub(crate) struct Pcapng<W: Write> {
    writer: PcapNgWriter<W>,
    /// Numbers of the interface blocks, by index and framing.
    interfaces: BTreeMap<(u32, bool), u32>,
}

impl<W: Write> Pcapng<W> {
    /// Begins a capture.
    pub(crate) fn new(writer: W) -> Result<Self> {
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![
                SectionHeaderOption::OS(Cow::Borrowed("Linux")),
                SectionHeaderOption::UserApplication(Cow::Borrowed(concat!(
                    "emptcp ",
                    env!("CARGO_PKG_VERSION")
                ))),
            ],
            ..Default::default()
        };
        Ok(Self {
            writer: PcapNgWriter::with_section_header(writer, section).context(FAILED)?,
            interfaces: BTreeMap::new(),
        })
    }

    /// Writes a packet; `interface`: its name.
    pub(crate) fn packet(
        &mut self,
        packet: &Packet<'_>,
        interface: &str,
        source: Option<&Source>,
    ) -> Result<()> {
        let interface_id = self.interface(packet.ifindex, packet.raw_ip, interface)?;
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(packet.time),
            original_len: packet.len,
            data: Cow::Borrowed(&packet.bytes),
            options: vec![
                EnhancedPacketOption::Comment(Cow::Owned(comment(packet, source))),
                EnhancedPacketOption::Flags(if packet.is_outbound() {
                    OUTBOUND
                } else {
                    INBOUND
                }),
            ],
        };
        self.writer.write_pcapng_block(block).context(FAILED)?;
        Ok(())
    }

    /// Number of the block of an interface, which is written with the first packet there.
    fn interface(&mut self, index: u32, raw_ip: bool, name: &str) -> Result<u32> {
        if let Some(known) = self.interfaces.get(&(index, raw_ip)) {
            return Ok(*known);
        }
        let block = InterfaceDescriptionBlock {
            linktype: match raw_ip {
                true => DataLink::RAW,
                false => DataLink::ETHERNET,
            },
            // The steps decide: 0 is no limit.
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfTsResol(TSRESOL),
            ],
        };
        self.writer.write_pcapng_block(block).context(FAILED)?;
        let number = self.interfaces.len() as u32;
        self.interfaces.insert((index, raw_ip), number);
        Ok(number)
    }

    /// Ends the capture: what was received and lost, by index of the interface. `time`: in
    /// nanoseconds since 1970.
    pub(crate) fn end(
        mut self,
        time: u64,
        stats: &BTreeMap<u32, Stats>,
        name: impl Fn(u32) -> String,
    ) -> Result<W> {
        for (index, stats) in stats {
            let known = self.interfaces.range((*index, false)..=(*index, true));
            let number = match known.map(|(_, number)| *number).next() {
                Some(number) => number,
                // Nothing of it was read, but something lost.
                None => self.interface(*index, false, &name(*index))?,
            };
            let block = InterfaceStatisticsBlock {
                interface_id: number,
                // pcap-file 2 writes one number where the format has its upper half first.
                timestamp: if cfg!(target_endian = "little") {
                    time.rotate_left(32)
                } else {
                    time
                },
                options: vec![
                    InterfaceStatisticsOption::IsbIfRecv(stats.received),
                    InterfaceStatisticsOption::IsbOsDrop(stats.dropped),
                ],
            };
            self.writer.write_pcapng_block(block).context(FAILED)?;
        }
        Ok(self.writer.into_inner())
    }

    /// Hands on what is written so far.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.writer.get_mut().flush().context(FAILED)
    }
}

const FAILED: &str = "cannot write the capture";

/// What the format has no field for.
fn comment(packet: &Packet<'_>, source: Option<&Source>) -> String {
    let mut comment = format!(
        "{} at {}",
        source_name(source, packet.step),
        packet.hook.name()
    );
    if packet.zone != 0 {
        comment += &format!(", zone {}", packet.zone);
    }
    if packet.segments > 1 {
        comment += &format!(
            ", {} segments of {} bytes",
            packet.segments, packet.segment_size
        );
    }
    comment
}
