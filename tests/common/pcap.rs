//! Captures: read with their link types, written for tshark.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use pcap_parser::LegacyPcapReader;
use pcap_parser::Linktype;
use pcap_parser::PcapBlockOwned;
use pcap_parser::PcapError;
use pcap_parser::traits::PcapReaderIterator;

use crate::Framing;

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes; the link header of a cooked capture replaced by an Ethernet one.
    pub bytes: Vec<u8>,
    /// What they begin with.
    pub framing: Framing,
}

impl Frame {
    /// The same packet with an Ethernet header.
    pub fn to_ethernet(&self) -> Vec<u8> {
        if self.framing == Framing::Ethernet {
            return self.bytes.clone();
        }
        let ethertype = match self.bytes.first().map(|b| b >> 4) {
            Some(6) => 0x86dd,
            _ => 0x0800,
        };
        ethernet(ethertype, &self.bytes)
    }
}

fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    bytes
}

fn frame(link: Linktype, data: &[u8]) -> Result<Frame, String> {
    Ok(match link {
        Linktype::ETHERNET => Frame {
            bytes: data.to_vec(),
            framing: Framing::Ethernet,
        },
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => Frame {
            bytes: data.to_vec(),
            framing: Framing::RawIp,
        },
        // Packet type, ARPHRD, length of address, address (8), protocol.
        Linktype::LINUX_SLL => match data {
            [
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                hi,
                lo,
                packet @ ..,
            ] => Frame {
                bytes: ethernet(u16::from_be_bytes([*hi, *lo]), packet),
                framing: Framing::Ethernet,
            },
            _ => return Err("cooked frame shorter than its header".into()),
        },
        other => return Err(format!("link type {other} is not known here")),
    })
}

/// Reads a capture (the classic format, not pcapng).
pub fn read(path: &Path) -> Result<Vec<Frame>, String> {
    let error = |e: String| format!("{}: {e}", path.display());
    let file = File::open(path).map_err(|e| error(e.to_string()))?;
    let mut reader =
        LegacyPcapReader::new(1 << 17, BufReader::new(file)).map_err(|e| error(e.to_string()))?;
    let mut link = Linktype::ETHERNET;
    let mut frames = Vec::new();
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => link = header.network,
                    PcapBlockOwned::Legacy(packet) => {
                        frames.push(frame(link, packet.data).map_err(error)?);
                    }
                    PcapBlockOwned::NG(_) => return Err(error("pcapng".into())),
                }
                reader.consume(offset);
            }
            Err(PcapError::Eof) => return Ok(frames),
            Err(PcapError::Incomplete(_)) => {
                reader.refill().map_err(|e| error(e.to_string()))?;
            }
            Err(e) => return Err(error(e.to_string())),
        }
    }
}

/// A pcapng capture of frames, whose framings may differ.
pub fn write<'a>(frames: impl IntoIterator<Item = (Framing, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    // Section header: byte order, version 1.0, length not known.
    let mut section = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
    section.extend([1, 0, 0, 0]);
    section.extend([0xff; 8]);
    block(&mut out, 0x0a0d_0d0a, &section);
    // One interface for each framing: link type, snap length 0 (no limit).
    for link in [Linktype::ETHERNET, Linktype::RAW] {
        let mut interface = (link.0 as u32).to_le_bytes().to_vec();
        interface.extend([0; 4]);
        block(&mut out, 1, &interface);
    }
    for (i, (framing, bytes)) in frames.into_iter().enumerate() {
        let interface = match framing {
            Framing::Ethernet => 0u32,
            Framing::RawIp => 1,
        };
        let len = bytes.len() as u32;
        let header = [interface, 0, i as u32, len, len];
        let mut packet: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
        packet.extend(bytes);
        block(&mut out, 6, &packet);
    }
    out
}

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let padded = body.len().next_multiple_of(4);
    let len = (12 + padded) as u32;
    out.extend(kind.to_le_bytes());
    out.extend(len.to_le_bytes());
    out.extend(body);
    out.resize(out.len() + padded - body.len(), 0);
    out.extend(len.to_le_bytes());
}
