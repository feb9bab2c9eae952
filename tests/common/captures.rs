//! Captures of others, and what the first selectors must say of each packet.
//!
//! What they must say is derived from what tshark found, not from the bytes.
//!
//! ```no_run
//! use emptcp_test::captures;
//!
//! for packet in captures::expected("tests/pcaps".as_ref()).unwrap() {
//!     for check in packet.checks() {
//!         // Run check.module with check.params on packet.bytes: it has to
//!         // match if check.matches, else to miss; the bytes stay as they are.
//!     }
//! }
//! ```

use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;
use serde_json::json;

use crate::Framing;
use crate::model;
use crate::pcap;
use crate::tshark;
use crate::tshark::Decoded;

/// The captures in `tests/pcaps` and how many packets each one has.
pub const FILES: [(&str, usize); 7] = [
    ("mptcp-aa-echo.pcap", 2),
    ("mptcp-aa-v1.pcap", 24),
    ("mptcp-dss-oobr.pcap", 1),
    ("mptcp-fclose.pcap", 11),
    ("mptcp-tcprst.pcap", 2),
    ("mptcp-v0.pcap", 264),
    ("mptcp-v1.pcap", 20),
];

/// A packet of a capture.
#[derive(Clone, Debug)]
pub struct Captured {
    /// File and number of the packet in it, from 1.
    pub name: String,
    /// Frame, always with an Ethernet header.
    pub bytes: Vec<u8>,
    /// What tshark found in it.
    pub facts: Decoded,
}

/// What a selector must say of a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Selector.
    pub module: &'static str,
    /// Its parameters.
    pub params: Value,
    /// Whether it matches.
    pub matches: bool,
}

/// Packets of all captures in a directory, decoded in one call of tshark.
pub fn expected(dir: &Path) -> Result<Vec<Captured>, String> {
    let mut packets = Vec::new();
    for (file, count) in FILES {
        let frames = pcap::read(&dir.join(file))?;
        if frames.len() != count {
            return Err(format!(
                "{file}: {} packets, expected {count}",
                frames.len()
            ));
        }
        for (i, frame) in frames.iter().enumerate() {
            packets.push((format!("{file} {}", i + 1), frame.to_ethernet()));
        }
    }
    let frames = packets
        .iter()
        .map(|(_, bytes)| (Framing::Ethernet, bytes.as_slice()));
    let facts = tshark::decode(frames)?;
    let captured = packets.into_iter().zip(facts);
    Ok(captured
        .map(|((name, bytes), facts)| Captured { name, bytes, facts })
        .collect())
}

/// Another port than this one.
fn other(port: u16) -> u16 {
    port ^ 1
}

/// The address whose last bit differs.
fn neighbour(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(v4) => IpAddr::from((u32::from(v4) ^ 1).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) ^ 1).to_be_bytes()),
    }
}

/// Prefix of all bits.
fn host(addr: IpAddr) -> String {
    format!("{addr}/{}", if addr.is_ipv4() { 32 } else { 128 })
}

/// Prefix of eight bits.
fn net(addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(v4) => format!("{}.0.0.0/8", v4.octets()[0]),
        IpAddr::V6(v6) => format!("{:x}00::/8", v6.octets()[0]),
    }
}

impl Captured {
    /// What every selector must say of this packet, with parameters made from
    /// its own fields, so that there are hits and near misses.
    pub fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut add = |module, params, matches| {
            checks.push(Check {
                module,
                params,
                matches,
            })
        };
        let (Some(ip), Some(tcp)) = (&self.facts.ip, &self.facts.tcp) else {
            // Not TCP: no selector may match, whatever it looks for.
            add("tcp", json!({}), false);
            add("mptcp", json!({}), false);
            add("src", json!({ "in": ["0.0.0.0/0"] }), false);
            add("sport", json!({ "in": ["0-65535"] }), false);
            return checks;
        };
        add("tcp", json!({}), true);
        for (bit, name) in ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"]
            .iter()
            .enumerate()
        {
            let set = tcp.flags & 1 << bit != 0;
            add("tcp", json!({ "flags": [name] }), set);
            add("tcp", json!({ "not_flags": [name] }), !set);
        }
        add(
            "mptcp",
            json!({}),
            self.facts.mptcp.iter().any(|option| option.len >= 3),
        );

        for (module, addr) in [("src", ip.src), ("dst", ip.dst)] {
            add(module, json!({ "in": [host(addr)] }), true);
            add(module, json!({ "in": [net(addr), "2001:db8::/32"] }), true);
            add(
                module,
                json!({ "in": [host(neighbour(addr)), "2001:db8::/32"] }),
                false,
            );
            // Longer than what a step holds inline.
            let mut many: Vec<String> = (0..20).map(|i| format!("203.0.113.{i}/32")).collect();
            add(module, json!({ "in": many }), false);
            many.push(host(addr));
            add(module, json!({ "in": many }), true);
        }
        for (module, port) in [("sport", tcp.sport), ("dport", tcp.dport)] {
            add(module, json!({ "in": [port] }), true);
            add(
                module,
                json!({ "in": [other(port), format!("{port}-65535")] }),
                true,
            );
            add(module, json!({ "in": [other(port)] }), false);
            let mut many: Vec<u16> = (0..20).map(|i| port ^ (2 + i)).collect();
            add(module, json!({ "in": many }), false);
            many.push(port);
            add(module, json!({ "in": many }), true);
            if port > 0 {
                add(module, json!({ "in": [format!("0-{}", port - 1)] }), false);
            }
        }

        let tuple = |src: IpAddr, sport: u16, dst: IpAddr, dport: u16, either: bool| json!({ "src": src, "sport": sport, "dst": dst, "dport": dport, "either": either });
        let (src, sport, dst, dport) = (ip.src, tcp.sport, ip.dst, tcp.dport);
        let same = src == dst && sport == dport;
        add("subflow", tuple(src, sport, dst, dport, false), true);
        add("subflow", tuple(src, sport, dst, dport, true), true);
        add("subflow", tuple(dst, dport, src, sport, false), same);
        add("subflow", tuple(dst, dport, src, sport, true), true);
        add("subflow", tuple(src, other(sport), dst, dport, true), false);
        add(
            "subflow",
            tuple(neighbour(src), sport, dst, dport, true),
            false,
        );

        checks.extend(self.option_checks(tcp));
        let mut add = |module, params, matches| {
            checks.push(Check {
                module,
                params,
                matches,
            })
        };
        let pair = |src: String, dst: String, either: bool| json!({ "src": src, "dst": dst, "either": either });
        add("ip_pair", pair(host(src), host(dst), false), true);
        add("ip_pair", pair(host(dst), host(src), false), src == dst);
        add("ip_pair", pair(host(dst), host(src), true), true);
        add(
            "ip_pair",
            pair(host(src), host(neighbour(dst)), true),
            false,
        );
        checks
    }

    /// The same for selectors of lengths and of options of Multipath TCP; what they must say
    /// is what the model makes of the fields that tshark found.
    fn option_checks(&self, tcp: &tshark::Tcp) -> Vec<Check> {
        let mut params = vec![
            ("sample", json!({ "ratio": 1 })),
            ("sample", json!({ "ratio": 0 })),
            (
                "sequence",
                json!({ "first": tcp.seq, "last": tcp.seq, "of": "tcp" }),
            ),
            (
                "sequence",
                json!({ "first": tcp.seq ^ 1, "last": tcp.seq ^ 1, "of": "tcp" }),
            ),
            ("backup", json!({})),
            ("backup", json!({ "set": false })),
            ("version", json!({ "any": ["v0"] })),
            ("version", json!({ "any": ["v1"] })),
            ("announced", json!({})),
            ("announced", json!({ "echo": "yes" })),
            (
                "announced",
                json!({ "echo": "any", "sets": ["private", "link_local", "ula"] }),
            ),
            ("addr_id", json!({ "in": [0, 1, 2] })),
            ("addr_id", json!({ "in": [3, 4, 5, 6, 7, 8, 9, 10] })),
        ];
        for name in TYPES {
            params.push(("packet_type", json!({ "any": [name] })));
        }
        if let Some(len) = tcp.payload_len {
            params.push(("length", json!({ "min": len, "max": len })));
            params.push(("length", json!({ "min": len + 1 })));
        }
        if let Some(ip) = &self.facts.ip {
            params.push((
                "length",
                json!({ "of": "packet", "min": ip.len, "max": ip.len }),
            ));
        }
        let field = |name: &'static str| {
            let of_options = self.facts.mptcp.iter();
            of_options.filter_map(move |o| o.fields.get(name)?.parse::<u64>().ok())
        };
        for (of, name) in [("dsn", "rawdataseqno"), ("ssn", "subflowseqno")] {
            for n in field(name) {
                let range =
                    |first: u64, last: u64| json!({ "first": first, "last": last, "of": of });
                params.push(("sequence", range(n, n)));
                params.push(("sequence", range(n.wrapping_add(1), n.wrapping_add(9))));
            }
        }
        for id in field("addrid").filter(|id| *id < 256) {
            params.push(("addr_id", json!({ "in": [id] })));
        }
        let of_options = params.into_iter().map(|(module, params)| Check {
            module,
            matches: model::matches(module, &params, &self.facts, 0).unwrap_or(false),
            params,
        });
        of_options.collect()
    }
}

/// What `packet_type` knows.
const TYPES: [&str; 23] = [
    "syn",
    "synack",
    "third_ack",
    "data",
    "pure_ack",
    "fin",
    "rst",
    "mp_capable",
    "mp_join",
    "mp_join_syn",
    "mp_join_synack",
    "mp_join_ack",
    "dss",
    "data_ack",
    "data_fin",
    "add_addr",
    "add_addr_echo",
    "remove_addr",
    "mp_prio",
    "mp_fail",
    "mp_fastclose",
    "mp_tcprst",
    "mp_experimental",
];
