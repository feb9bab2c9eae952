//! tshark as a decoder that knows nothing of emptcp.
//!
//! One call decodes any number of frames, because tshark needs most of a
//! second to start.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;
use std::net::IpAddr;
use std::process::Command;
use std::process::Stdio;

use serde_json::Map;
use serde_json::Value;

use crate::Framing;
use crate::hosts::Family;
use crate::packet::Packet;
use crate::pcap;

/// What tshark found in a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Ids of the VLAN tags, outer first.
    pub vlan: Vec<u16>,
    /// Outermost IP header.
    pub ip: Option<Ip>,
    /// TCP header: not of fragments, nor of what is inside of another protocol.
    pub tcp: Option<Tcp>,
    /// Options of Multipath TCP in their order.
    pub mptcp: Vec<Mptcp>,
    /// Names of the protocols, outer first.
    pub protocols: Vec<String>,
    /// tshark ran out of bytes or calls the packet malformed.
    pub malformed: bool,
    /// tshark ran into a bug of its own and did not get to the end of the
    /// options. What it makes of MP_CAPABLE depends on frames before, where
    /// those have the same addresses and ports (version 4.0).
    pub gave_up: bool,
    /// Complaints: messages of warnings and errors.
    pub complaints: Vec<String>,
}

/// IP header.
#[derive(Clone, Debug, PartialEq)]
pub struct Ip {
    /// Source.
    pub src: IpAddr,
    /// Destination of the IP header, also where there is a routing header.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Offset of the fragment in bytes.
    pub fragment_offset: u16,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Header checksum (IPv4).
    pub checksum: Option<Checksum>,
    /// Length of the packet from this header on, as the header has it.
    pub len: usize,
}

/// TCP header.
#[derive(Clone, Debug, PartialEq)]
pub struct Tcp {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Flags, the lower eight.
    pub flags: u8,
    /// Window field, not scaled.
    pub window: u16,
    /// Length of the header in bytes.
    pub header_len: u8,
    /// Length of the payload; none when the header is not whole.
    pub payload_len: Option<usize>,
    /// Kinds of the options, ascending.
    pub option_kinds: Vec<u8>,
    /// Checksum.
    pub checksum: Checksum,
}

/// What tshark says of a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Wrong.
    Bad,
    /// Right.
    Good,
    /// Not checked: not all bytes are there.
    Unverified,
}

/// Option of Multipath TCP.
#[derive(Clone, Debug, PartialEq)]
pub struct Mptcp {
    /// Subtype; none of an option that is too short to have one.
    pub subtype: Option<u8>,
    /// Length that the option claims.
    pub len: u8,
    /// Other fields, by the name of tshark without `tcp.options.mptcp.`.
    pub fields: BTreeMap<String, String>,
}

/// What tshark must do, and what it must not: frames have nothing to do with
/// each other, so it must keep no state of connections.
const PREFERENCES: [&str; 11] = [
    "ip.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "tcp.relative_sequence_numbers:FALSE",
    "tcp.analyze_sequence_numbers:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "tcp.calculate_timestamps:FALSE",
    "mptcp.analyze_mptcp:FALSE",
    "mptcp.relative_sequence_numbers:FALSE",
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "nameres.mac_name:FALSE",
];

/// Decodes frames, all in one call of tshark.
pub fn decode<'a>(
    frames: impl IntoIterator<Item = (Framing, &'a [u8])>,
) -> Result<Vec<Decoded>, String> {
    let frames: Vec<_> = frames.into_iter().collect();
    let count = frames.len();
    if count == 0 {
        return Ok(Vec::new());
    }
    let capture = pcap::write(frames);
    let mut command = Command::new("tshark");
    command.args(["-n", "-r", "-", "-T", "json", "--no-duplicate-keys"]);
    // Nothing above TCP and UDP: what ports stand for does not matter here.
    command.args([
        "-d",
        "tcp.port==0-65535,data",
        "-d",
        "udp.port==0-65535,data",
    ]);
    for preference in PREFERENCES {
        command.args(["-o", preference]);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("tshark (package tshark or wireshark-cli): {e}"))?;
    let mut stdin = child.stdin.take().ok_or("tshark: no standard input")?;
    let writer = std::thread::spawn(move || stdin.write_all(&capture));
    let output = child
        .wait_with_output()
        .map_err(|e| format!("tshark: {e}"))?;
    let written = writer.join().map_err(|_| "tshark: writer panicked")?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("tshark: {}: {stderr}", output.status));
    }
    written.map_err(|e| format!("tshark: {e}"))?;
    let packets: Vec<Value> =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("tshark: {e}"))?;
    if packets.len() != count {
        return Err(format!("tshark: {} packets of {count}", packets.len()));
    }
    packets
        .iter()
        .map(|p| decoded(&p["_source"]["layers"]))
        .collect()
}

/// The value, or the first of several with the same key.
fn first(value: &Value) -> &Value {
    match value {
        Value::Array(items) => items.first().unwrap_or(&Value::Null),
        other => other,
    }
}

fn all(value: &Value) -> Vec<&Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().collect(),
        other => vec![other],
    }
}

fn text<'a>(fields: &'a Value, key: &str) -> Result<&'a str, String> {
    first(&fields[key])
        .as_str()
        .ok_or_else(|| format!("tshark: no field {key} in {fields}"))
}

fn number<T: TryFrom<u64>>(fields: &Value, key: &str) -> Result<T, String> {
    let text = text(fields, key)?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        // Versions differ in how they print a boolean.
        None => match text {
            "True" => Some(1),
            "False" => Some(0),
            _ => text.parse().ok(),
        },
    };
    number
        .and_then(|n| T::try_from(n).ok())
        .ok_or_else(|| format!("tshark: {key} is {text:?}"))
}

fn address(fields: &Value, key: &str) -> Result<IpAddr, String> {
    let text = text(fields, key)?;
    text.parse()
        .map_err(|e| format!("tshark: {key} is {text:?}: {e}"))
}

fn checksum(fields: &Value, key: &str) -> Result<Checksum, String> {
    Ok(match text(fields, key)? {
        "0" | "Bad" => Checksum::Bad,
        "1" | "Good" => Checksum::Good,
        _ => Checksum::Unverified,
    })
}

fn decoded(layers: &Value) -> Result<Decoded, String> {
    let protocols: Vec<String> = text(&layers["frame"], "frame.protocols")?
        .split(':')
        .map(String::from)
        .collect();
    let mut decoded = Decoded::default();
    for (layer, key) in [("ieee8021ad", "ieee8021ad.id"), ("vlan", "vlan.id")] {
        for tag in all(&layers[layer]) {
            decoded.vlan.push(number(tag, key)?);
        }
    }
    // Whichever stands first is the outer one.
    decoded.ip = match protocols.iter().find(|p| *p == "ip" || *p == "ipv6") {
        Some(ip) if ip == "ip" => ip4(first(&layers["ip"]))?,
        Some(_) => ip6(first(&layers["ipv6"]), layers)?,
        None => None,
    };
    let own = protocols
        .iter()
        .filter(|p| *p == "ip" || *p == "ipv6")
        .count()
        == 1;
    let tcp = first(&layers["tcp"]);
    if own && tcp["tcp.hdr_len"].is_string() {
        decoded.tcp = self::tcp(tcp)?;
        decoded.mptcp = all(&tcp["tcp.options_tree"]["mptcp"])
            .into_iter()
            .map(mptcp)
            .collect::<Result<_, _>>()?;
    }
    complaints(layers, &mut decoded);
    decoded.protocols = protocols;
    Ok(decoded)
}

fn ip4(ip: &Value) -> Result<Option<Ip>, String> {
    if ip["ip.dst"].is_null() {
        return Ok(None);
    }
    Ok(Some(Ip {
        src: address(ip, "ip.src")?,
        dst: address(ip, "ip.dst")?,
        ttl: number(ip, "ip.ttl")?,
        tos: number(ip, "ip.dsfield")?,
        // In units of eight bytes, as in the header.
        fragment_offset: 8 * number::<u16>(ip, "ip.frag_offset")?,
        more_fragments: number::<u8>(&ip["ip.flags_tree"], "ip.flags.mf")? != 0,
        checksum: Some(checksum(ip, "ip.checksum.status")?),
        len: number(ip, "ip.len")?,
    }))
}

fn ip6(ip: &Value, layers: &Value) -> Result<Option<Ip>, String> {
    if ip["ipv6.dst"].is_null() {
        return Ok(None);
    }
    // Extension headers are layers of their own, or inside of the IPv6 layer.
    let fragment = match first(&layers["ipv6.fraghdr"]) {
        Value::Null => first(&ip["ipv6.fraghdr"]),
        layer => layer,
    };
    let inner = |key: &str| match fragment {
        Value::Object(_) => number(fragment, key),
        _ => Ok(0u16),
    };
    Ok(Some(Ip {
        src: address(ip, "ipv6.src")?,
        dst: address(ip, "ipv6.dst")?,
        ttl: number(ip, "ipv6.hlim")?,
        tos: number(ip, "ipv6.tclass")?,
        fragment_offset: 8 * inner("ipv6.fraghdr.offset")?,
        more_fragments: inner("ipv6.fraghdr.more")? != 0,
        checksum: None,
        len: 40 + number::<usize>(ip, "ipv6.plen")?,
    }))
}

fn tcp(tcp: &Value) -> Result<Option<Tcp>, String> {
    if tcp["tcp.window_size_value"].is_null() {
        return Ok(None);
    }
    let mut kinds = Vec::new();
    collect(&tcp["tcp.options_tree"], "tcp.option_kind", &mut kinds);
    let mut option_kinds = kinds
        .iter()
        .map(|k| k.parse().map_err(|_| format!("tshark: option kind {k:?}")))
        .collect::<Result<Vec<u8>, String>>()?;
    option_kinds.sort_unstable();
    Ok(Some(Tcp {
        sport: number(tcp, "tcp.srcport")?,
        dport: number(tcp, "tcp.dstport")?,
        seq: number(tcp, "tcp.seq_raw")?,
        ack: number(tcp, "tcp.ack_raw")?,
        flags: (number::<u16>(tcp, "tcp.flags")? & 0xff) as u8,
        window: number(tcp, "tcp.window_size_value")?,
        header_len: number(tcp, "tcp.hdr_len")?,
        payload_len: number(tcp, "tcp.len").ok(),
        option_kinds,
        checksum: checksum(tcp, "tcp.checksum.status")?,
    }))
}

fn mptcp(option: &Value) -> Result<Mptcp, String> {
    let mut fields = BTreeMap::new();
    flatten(option, &mut fields);
    Ok(Mptcp {
        subtype: number(option, "tcp.options.mptcp.subtype").ok(),
        len: number(option, "tcp.option_len")?,
        fields,
    })
}

/// Fields of an option and of the trees in it; several values joined by commas.
fn flatten(tree: &Value, fields: &mut BTreeMap<String, String>) {
    for (key, value) in tree.as_object().unwrap_or(&Map::new()) {
        if value.is_object() {
            flatten(value, fields);
        } else if let Some(name) = key.strip_prefix("tcp.options.mptcp.") {
            let values: Vec<&str> = all(value).into_iter().filter_map(Value::as_str).collect();
            fields.insert(name.into(), values.join(","));
        }
    }
}

/// Every value of `key` anywhere below.
fn collect<'a>(tree: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match tree {
        Value::Array(items) => items.iter().for_each(|v| collect(v, key, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == key {
                    found.extend(all(value).into_iter().filter_map(Value::as_str));
                } else {
                    collect(value, key, found);
                }
            }
        }
        _ => {}
    }
}

/// Severities of Wireshark from warning on.
const WARNING: u64 = 0x0060_0000;

fn complaints(tree: &Value, decoded: &mut Decoded) {
    match tree {
        Value::Array(items) => items.iter().for_each(|v| complaints(v, decoded)),
        Value::Object(fields) => {
            for (name, value) in fields {
                decoded.malformed |= name == "_ws.malformed" || name == "_ws.short";
                decoded.gave_up |= name == "_ws.malformed.dissector_bug";
                if name == "_ws.expert" {
                    for info in all(value) {
                        if number(info, "_ws.expert.severity").unwrap_or(WARNING) >= WARNING {
                            let message = first(&info["_ws.expert.message"]);
                            decoded
                                .complaints
                                .push(message.as_str().unwrap_or("?").into());
                        }
                    }
                }
                complaints(value, decoded);
            }
        }
        _ => {}
    }
}

impl Decoded {
    /// Where tshark found something else than a description says; empty for a
    /// description that is wrong on purpose and for one that is right.
    pub fn differences(&self, packet: &Packet, family: Family) -> Vec<String> {
        let mut found = Differences(Vec::new());
        let (true, Some(want)) = (packet.is_well_formed(), packet.tcp_header()) else {
            return found.0;
        };
        let ids: Vec<u16> = packet.vlan.iter().map(|tag| tag.id).collect();
        found.compare("vlan", &self.vlan, &ids);
        found.compare("malformed", &(self.malformed && !self.gave_up), &false);
        let (src, dst, ttl, tos) = packet.addresses(family);
        match &self.ip {
            None => found.0.push("no IP header".into()),
            Some(ip) => {
                found.compare("src", &Ok(ip.src), &src);
                found.compare("dst", &Ok(ip.dst), &dst);
                found.compare("ttl", &ip.ttl, &ttl);
                found.compare("tos", &ip.tos, &tos);
                if family == Family::Ip4 {
                    found.compare("IP checksum", &ip.checksum, &Some(Checksum::Good));
                }
            }
        }
        let Some(tcp) = &self.tcp else {
            found.0.push("no TCP header".into());
            return found.0;
        };
        found.compare("sport", &tcp.sport, &want.sport);
        found.compare("dport", &tcp.dport, &want.dport);
        found.compare("seq", &tcp.seq, &want.seq);
        found.compare("ack", &tcp.ack, &want.ack);
        found.compare("flags", &tcp.flags, &want.flags);
        found.compare("window", &tcp.window, &want.window);
        found.compare("payload", &tcp.payload_len, &Some(packet.payload.0.len()));
        found.compare("TCP checksum", &tcp.checksum, &Checksum::Good);
        if self.gave_up {
            return found.0;
        }
        let options = want.options.iter();
        let lens: Vec<(Option<u8>, usize)> = options
            .filter_map(|o| Some((Some(o.subtype()?), o.encode(family).ok()?.len())))
            .collect();
        let found_lens: Vec<(Option<u8>, usize)> = self
            .mptcp
            .iter()
            .map(|o| (o.subtype, o.len.into()))
            .collect();
        found.compare("MPTCP options (subtype, length)", &found_lens, &lens);
        found.0
    }
}

struct Differences(Vec<String>);

impl Differences {
    fn compare<T: PartialEq + Debug>(&mut self, what: &str, found: &T, want: &T) {
        if found != want {
            self.0
                .push(format!("{what}: tshark found {found:?}, expected {want:?}"));
        }
    }
}
