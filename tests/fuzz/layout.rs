//! Where the fields of a TCP packet are, found without the parser of emptcp.

use emptcp_test::Framing;

/// Headers of IPv6 that are followed at most, as `EMPTCP_EXT_MAX` of emptcp.
const EXT_MAX: usize = 8;

/// Offsets in a packet whose TCP header, with options, is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Of the IP header.
    pub(crate) ip: usize,
    /// 4 or 6.
    pub(crate) version: u8,
    /// Behind the fixed part of the IP header: options of IPv4, extension headers of IPv6.
    pub(crate) ext: usize,
    /// Of the TCP header.
    pub(crate) tcp: usize,
    /// Of the payload.
    pub(crate) payload: usize,
    /// Of what is behind the IP packet: padding of Ethernet. The end of a frame that was cut.
    pub(crate) pad: usize,
    /// End of the IP packet, as its header says.
    pub(crate) ip_end: usize,
    /// It is a fragment, the first one.
    pub(crate) fragment: bool,
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let two = bytes.get(at..at + 2)?;
    Some(usize::from(two[0]) << 8 | usize::from(two[1]))
}

/// `None`: no TCP, or not all of its header.
pub(crate) fn layout(bytes: &[u8], framing: Framing) -> Option<Layout> {
    let mut ip = 0;
    if framing == Framing::Ethernet {
        ip = 14;
        while let 0x8100 | 0x88a8 | 0x9100 = word(bytes, ip - 2)? {
            ip += 4;
        }
        if !matches!(word(bytes, ip - 2)?, 0x0800 | 0x86dd) {
            return None;
        }
    }
    let version = bytes.get(ip)? >> 4;
    let (ext, tcp, ip_end, fragment) = match version {
        4 => ip4(bytes, ip)?,
        6 => ip6(bytes, ip)?,
        _ => return None,
    };
    let doff = usize::from(bytes.get(tcp + 12)? >> 4) * 4;
    let payload = tcp + doff;
    if doff < 20 || payload > bytes.len() || payload > ip_end {
        return None;
    }
    Some(Layout {
        ip,
        version,
        ext,
        tcp,
        payload,
        pad: ip_end.min(bytes.len()),
        ip_end,
        fragment,
    })
}

/// BIG TCP does not tell its length: it ends with the frame.
fn end(bytes: &[u8], from: usize, len: usize) -> usize {
    if len == 0 { bytes.len() } else { from + len }
}

fn ip4(bytes: &[u8], ip: usize) -> Option<(usize, usize, usize, bool)> {
    let header = usize::from(bytes[ip] & 15) * 4;
    let fragment = word(bytes, ip + 6)?;
    if header < 20 || fragment & 0x1fff != 0 || *bytes.get(ip + 9)? != 6 {
        return None;
    }
    let end = end(bytes, ip, word(bytes, ip + 2)?);
    Some((ip + 20, ip + header, end, fragment & 0x2000 != 0))
}

fn ip6(bytes: &[u8], ip: usize) -> Option<(usize, usize, usize, bool)> {
    let mut next = *bytes.get(ip + 6)?;
    let mut at = ip + 40;
    let mut fragment = false;
    for _ in 0..=EXT_MAX {
        let len = match next {
            6 => {
                let end = end(bytes, ip + 40, word(bytes, ip + 4)?);
                return Some((ip + 40, at, end, fragment));
            }
            0 | 43 | 60 | 135 => 8 + 8 * usize::from(*bytes.get(at + 1)?),
            44 => {
                let offset = word(bytes, at + 2)?;
                if offset & 0xfff8 != 0 {
                    return None;
                }
                fragment |= offset & 1 != 0;
                8
            }
            51 => 8 + 4 * usize::from(*bytes.get(at + 1)?),
            _ => return None,
        };
        next = *bytes.get(at)?;
        at += len;
    }
    None
}

/// The fields by name: all bytes of the packet, each in one of them.
pub(crate) fn fields(bytes: &[u8], l: &Layout) -> Vec<(&'static str, Vec<u8>)> {
    let mut fields: Vec<(&'static str, Vec<u8>)> = Vec::with_capacity(24);
    let mut add = |name, from: usize, to: usize| fields.push((name, bytes[from..to].to_vec()));
    add("eth", 0, l.ip.min(12));
    add("vlan", l.ip.min(12), l.ip);
    let ip = l.ip;
    if l.version == 4 {
        add("ip.version", ip, ip + 1);
        add("ip.tos", ip + 1, ip + 2);
        add("ip.len", ip + 2, ip + 4);
        add("ip.id", ip + 4, ip + 6);
        add("ip.fragment", ip + 6, ip + 8);
        add("ip.ttl", ip + 8, ip + 9);
        add("ip.proto", ip + 9, ip + 10);
        add("ip.checksum", ip + 10, ip + 12);
        add("ip.addresses", ip + 12, ip + 20);
    } else {
        add("ip.len", ip + 4, ip + 6);
        add("ip.proto", ip + 6, ip + 7);
        add("ip.ttl", ip + 7, ip + 8);
        add("ip.addresses", ip + 8, ip + 40);
    }
    add("ip.ext", l.ext, l.tcp);
    let tcp = l.tcp;
    add("tcp.ports", tcp, tcp + 4);
    add("tcp.seq", tcp + 4, tcp + 8);
    add("tcp.ack", tcp + 8, tcp + 12);
    add("tcp.doff", tcp + 12, tcp + 13);
    add("tcp.flags", tcp + 13, tcp + 14);
    add("tcp.window", tcp + 14, tcp + 16);
    add("tcp.checksum", tcp + 16, tcp + 18);
    add("tcp.urgent", tcp + 18, tcp + 20);
    add("tcp.options", tcp + 20, l.payload);
    add("payload", l.payload, l.pad);
    add("pad", l.pad, bytes.len());
    if l.version == 6 {
        // Version, class and label share bytes.
        let first = &bytes[ip..ip + 4];
        fields.push(("ip.version", vec![first[0] >> 4]));
        fields.push(("ip.tos", vec![first[0] << 4 | first[1] >> 4]));
        fields.push(("ip.flow", vec![first[1] & 15, first[2], first[3]]));
    }
    fields
}

/// The options one by one, `None` where they contradict themselves.
pub(crate) fn options(mut area: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while let Some(kind) = area.first() {
        let len = match kind {
            0 => return Some(found),
            1 => 1,
            _ => usize::from(*area.get(1)?),
        };
        if len == 0 || (*kind > 1 && len < 2) {
            return None;
        }
        found.push(area.get(..len)?);
        area = &area[len..];
    }
    Some(found)
}
