//! Selectors of what is in options of Multipath TCP, and of lengths.

use std::net::IpAddr;

use serde_json::Value;

use super::in_prefix;
use super::in_range;
use crate::tshark::Decoded;
use crate::tshark::Mptcp;
use crate::tshark::Tcp;

/// The selectors that are known here.
pub(super) const KNOWN: [&str; 8] = [
    "packet_type",
    "sequence",
    "version",
    "addr_id",
    "announced",
    "backup",
    "length",
    "sample",
];

/// Whether a selector matches a packet, of which tshark found a TCP header.
pub(super) fn matches(module: &str, params: &Value, packet: &Decoded) -> bool {
    let Some(tcp) = &packet.tcp else {
        return false;
    };
    let any = |test: &dyn Fn(&Mptcp) -> bool| packet.mptcp.iter().any(test);
    match module {
        "packet_type" => {
            let types = types(packet, tcp);
            names(params, "any").any(|name| types.contains(&name))
        }
        "sequence" if params["of"] == "tcp" => holds(params, tcp.seq.into(), 32),
        "sequence" => any(&|o| in_sequence(o, params)),
        "version" => any(&|o| {
            let version = number(o, "version").map(|v| format!("v{v}"));
            o.subtype == Some(0)
                && o.len >= 4
                && version.is_some_and(|v| names(params, "any").any(|name| name == v))
        }),
        "addr_id" => {
            let wanted = params["in"].as_array().unwrap();
            let last_removed = packet.mptcp.iter().rposition(|o| o.subtype == Some(4));
            let ids = |(i, o): (usize, &Mptcp)| match (o.subtype, o.len) {
                // Of several REMOVE_ADDR the last one counts.
                (Some(4), _) if Some(i) != last_removed => Vec::new(),
                (Some(3 | 4), _) | (Some(1), 12 | 16) | (Some(5), 4) => numbers(o, "addrid"),
                _ => Vec::new(),
            };
            let mut found = packet.mptcp.iter().enumerate().flat_map(ids);
            found.any(|id| wanted.iter().any(|w| w.as_u64() == Some(id)))
        }
        "announced" => any(&|o| o.subtype == Some(3) && is_announced(o, params)),
        "backup" => {
            let wanted = params["set"].as_bool().unwrap_or(true);
            any(&|o| {
                matches!((o.subtype, o.len), (Some(1), 12 | 16) | (Some(5), 3 | 4))
                    && number(o, "backup.flag") == Some(wanted.into())
            })
        }
        "length" => {
            let ip = packet.ip.as_ref().map_or(0, |ip| ip.len);
            let payload = tcp.payload_len.unwrap_or_default();
            let len = match params["of"].as_str() {
                Some("packet") => ip,
                _ => payload,
            };
            bytes(&params["min"]).unwrap_or(0) <= len
                && len <= bytes(&params["max"]).unwrap_or(usize::MAX)
        }
        // All or none: what lies between is up to chance.
        _ => matches!(params["ratio"].to_string().as_str(), "1" | "\"100%\""),
    }
}

fn names<'a>(params: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    let array = params[key].as_array().map(Vec::as_slice);
    array
        .unwrap_or_default()
        .iter()
        .map(|n| n.as_str().unwrap())
}

/// Values of a field; flags too, as numbers.
fn numbers(option: &Mptcp, field: &str) -> Vec<u64> {
    let text = option.fields.get(field).map(String::as_str);
    let values = text.unwrap_or_default().split(',');
    let parse = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    values.filter_map(parse).collect()
}

fn number(option: &Mptcp, field: &str) -> Option<u64> {
    numbers(option, field).first().copied()
}

fn bytes(value: &Value) -> Option<usize> {
    match value {
        Value::String(s) => Some(s.strip_suffix("KiB").unwrap().parse::<usize>().unwrap() << 10),
        other => other.as_u64().map(|n| n as usize),
    }
}

/// The types of a packet, by their names.
fn types(packet: &Decoded, tcp: &Tcp) -> Vec<&'static str> {
    const SUBTYPES: [&str; 9] = [
        "mp_capable",
        "mp_join",
        "dss",
        "add_addr",
        "remove_addr",
        "mp_prio",
        "mp_fail",
        "mp_fastclose",
        "mp_tcprst",
    ];
    let flag = |bit: u8| tcp.flags & 1 << bit != 0;
    let (fin, syn, rst, ack) = (flag(0), flag(1), flag(2), flag(4));
    let data = tcp.payload_len.is_some_and(|len| len > 0);
    let mut types = Vec::new();
    let mut add = |is: bool, name| types.extend(is.then_some(name));
    add(syn && !ack, "syn");
    add(syn && ack, "synack");
    add(fin, "fin");
    add(rst, "rst");
    add(data, "data");
    add(ack && !syn && !fin && !rst && !data, "pure_ack");
    for option in &packet.mptcp {
        let flags = number(option, "flags").unwrap_or(0);
        let echo = number(option, "echo") == Some(1);
        match (option.subtype, option.len) {
            (Some(3), _) => add(true, if echo { "add_addr_echo" } else { "add_addr" }),
            (Some(15), _) => add(true, "mp_experimental"),
            (Some(n), _) => SUBTYPES
                .get(usize::from(n))
                .into_iter()
                .for_each(|name| add(true, name)),
            _ => {}
        }
        match (option.subtype, option.len) {
            (Some(0), 20) => add(true, "third_ack"),
            (Some(1), 12) => add(true, "mp_join_syn"),
            (Some(1), 16) => add(true, "mp_join_synack"),
            (Some(1), 24) => {
                add(true, "mp_join_ack");
                add(true, "third_ack");
            }
            (Some(2), 4..) => {
                add(flags & 1 != 0, "data_ack");
                add(flags & 0x10 != 0, "data_fin");
            }
            _ => {}
        }
    }
    types
}

/// Whether a number of so many bits is in the range, which may pass zero.
fn holds(params: &Value, number: u64, bits: u32) -> bool {
    let bound = |key: &str| params[key].as_u64().unwrap();
    let (first, last) = (bound("first"), bound("last"));
    if bits == 64 {
        return match first <= last {
            true => (first..=last).contains(&number),
            false => number >= first || number <= last,
        };
    }
    let most = u64::from(u32::MAX);
    // How many numbers the range has, less one.
    let span = match first <= most && last <= most {
        true => last.wrapping_sub(first) & most,
        false => last.wrapping_sub(first),
    };
    span >= most || (0..=span).contains(&(number.wrapping_sub(first) & most))
}

/// Whether a DSS has a mapping in the range.
fn in_sequence(option: &Mptcp, params: &Value) -> bool {
    let flags = number(option, "flags").unwrap_or(0);
    let width = |present: u64, wide: u64| match (flags & present, flags & wide) {
        (0, _) => 0,
        (_, 0) => 4,
        _ => 8,
    };
    let (ack, dsn) = (width(1, 2), width(4, 8));
    let len = 4 + ack + if dsn > 0 { dsn + 6 } else { 0 };
    let is_whole = option.subtype == Some(2) && [len, len + 2].contains(&option.len);
    if !is_whole || dsn == 0 {
        return false;
    }
    let (field, bits) = match params["of"].as_str() {
        Some("ssn") => ("subflowseqno", 32),
        _ => ("rawdataseqno", u32::from(dsn) * 8),
    };
    number(option, field).is_some_and(|n| holds(params, n, bits))
}

/// Whether an ADD_ADDR is one that is asked for.
fn is_announced(option: &Mptcp, params: &Value) -> bool {
    // Version 0 has no echo: tshark says where it found one.
    let echo = number(option, "echo") == Some(1);
    let field = |name: &str| option.fields.get(name);
    let Some(addr) = field("ipv4").or(field("ipv6")) else {
        return false;
    };
    // tshark also takes what receivers do not.
    let is_whole = match (echo, number(option, "ipver")) {
        (true, _) => matches!(option.len, 8 | 10 | 20 | 22),
        (_, Some(4)) => matches!(option.len, 8 | 10),
        (_, Some(6)) => matches!(option.len, 20 | 22),
        _ => matches!(option.len, 16 | 18 | 28 | 30),
    };
    if !is_whole {
        return false;
    }
    let addr: IpAddr = addr.parse().unwrap();
    // What is mapped is IPv4.
    let addr = addr.to_canonical();
    let right_echo = match params["echo"].as_str() {
        Some("any") => true,
        Some("yes") => echo,
        _ => !echo,
    };
    let list = |key: &str| params[key].as_array().cloned().unwrap_or_default();
    let ports = list("ports");
    let port = number(option, "port").map(|port| port as u16);
    let right_port =
        ports.is_empty() || port.is_some_and(|port| ports.iter().any(|r| in_range(port, r)));
    let mut prefixes = list("in");
    let sets: Vec<&str> = names(params, "sets").collect();
    for set in &sets {
        let of_set: &[&str] = match *set {
            "private" => &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"],
            "link_local" => &["169.254.0.0/16", "fe80::/10"],
            _ => &["fc00::/7"],
        };
        prefixes.extend(of_set.iter().map(|p| Value::from(*p)));
    }
    let right_addr = prefixes.is_empty() || prefixes.iter().any(|p| in_prefix(addr, p));
    right_echo && right_port && right_addr
}
