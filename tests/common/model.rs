//! Selectors, and the actors that change a number, once more: on what tshark found
//! in a packet instead of on its bytes, so that the expectations of fixtures are held against
//! something that was not written by the same hand.

mod options;

use std::net::IpAddr;
use std::net::SocketAddr;

use serde_json::Value;

use crate::tshark::Decoded;
use crate::tshark::Tcp;

/// Whether a selector matches a packet; none for a module that is not known here.
///
/// # Panics
/// On parameters that the module does not have or that cannot be read.
pub fn matches(module: &str, params: &Value, packet: &Decoded, mark: u32) -> Option<bool> {
    const KNOWN: [&str; 9] = [
        "tcp", "mptcp", "subflow", "ip_pair", "src", "dst", "sport", "dport", "mark",
    ];
    if options::KNOWN.contains(&module) {
        let of_options = options::matches(module, params, packet);
        return Some(packet.tcp.is_some() && of_options);
    }
    if !KNOWN.contains(&module) {
        return None;
    }
    let (Some(ip), Some(tcp)) = (&packet.ip, &packet.tcp) else {
        return Some(false);
    };
    let either = params["either"].as_bool().unwrap_or(false);
    Some(match module {
        "tcp" => {
            let wanted = flags(&params["flags"]);
            tcp.flags & wanted == wanted && tcp.flags & flags(&params["not_flags"]) == 0
        }
        "mptcp" => packet.mptcp.iter().any(|option| option.len >= 3),
        "subflow" => {
            let addr = |key: &str| -> IpAddr { params[key].as_str().unwrap().parse().unwrap() };
            let port = |key: &str| params[key].as_u64().unwrap() as u16;
            let source = (addr("src"), port("sport"));
            let destination = (addr("dst"), port("dport"));
            let (from, to) = ((ip.src, tcp.sport), (ip.dst, tcp.dport));
            (from, to) == (source, destination) || either && (from, to) == (destination, source)
        }
        "ip_pair" => {
            let pair = |a, b| in_prefix(a, &params["src"]) && in_prefix(b, &params["dst"]);
            pair(ip.src, ip.dst) || either && pair(ip.dst, ip.src)
        }
        "src" => list(params).iter().any(|p| in_prefix(ip.src, p)),
        "dst" => list(params).iter().any(|p| in_prefix(ip.dst, p)),
        "sport" => list(params).iter().any(|r| in_range(tcp.sport, r)),
        "dport" => list(params).iter().any(|r| in_range(tcp.dport, r)),
        _ => {
            let mask = params["mask"].as_u64().unwrap_or(u32::MAX.into());
            u64::from(mark) & mask == params["value"].as_u64().unwrap()
        }
    })
}

/// Window field behind `set_recv_win`.
///
/// # Panics
/// On parameters that cannot be read.
pub fn set_recv_win(params: &Value, tcp: &Tcp) -> u16 {
    let (syn, rst) = (flags(&["syn"].into()), flags(&["rst"].into()));
    if tcp.flags & (syn | rst) != 0 || tcp.window == 0 {
        return tcp.window;
    }
    let bytes = match &params["bytes"] {
        Value::String(s) => s.strip_suffix("KiB").unwrap().parse::<u64>().unwrap() << 10,
        other => other.as_u64().unwrap(),
    };
    let floor = params["floor"].as_u64().unwrap_or(2920);
    let most = bytes.max(floor) >> params["wscale"].as_u64().unwrap();
    most.clamp(1, tcp.window.into()) as u16
}

/// Mark behind `set_mark`.
///
/// # Panics
/// On parameters that cannot be read.
pub fn set_mark(params: &Value, mark: u32) -> u32 {
    let value = params["value"].as_u64().unwrap() as u32;
    let mask = params["mask"].as_u64().map_or(u32::MAX, |m| m as u32);
    mark & !mask | value & mask
}

/// The parameters with the elements of the table in its place; of a subflow, each as the
/// parameters of one.
pub fn without_table(module: &str, params: &Value, tables: &Value) -> Vec<Value> {
    let Some(name) = params["table"].as_str() else {
        return vec![params.clone()];
    };
    let keys: Vec<Value> = match &tables[name]["elements"] {
        Value::Array(keys) => keys.clone(),
        Value::Object(map) => map.keys().map(|key| key.as_str().into()).collect(),
        other => panic!("elements of {name}: {other}"),
    };
    if module != "subflow" {
        return vec![serde_json::json!({ "in": keys })];
    }
    let subflow = |key: &Value| {
        let (from, to) = key.as_str().unwrap().split_once('-').unwrap();
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        serde_json::json!({
            "src": from.ip(), "sport": from.port(), "dst": to.ip(), "dport": to.port(),
            "either": params["either"],
        })
    };
    keys.iter().map(subflow).collect()
}

fn list(params: &Value) -> &[Value] {
    params["in"].as_array().unwrap()
}

fn flags(names: &Value) -> u8 {
    const ALL: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    let names = names.as_array().map(Vec::as_slice).unwrap_or_default();
    names.iter().fold(0, |flags, name| {
        let bit = ALL.iter().position(|n| Some(*n) == name.as_str());
        flags | 1 << bit.unwrap()
    })
}

fn bits(addr: IpAddr) -> (u128, u32) {
    match addr {
        IpAddr::V4(v4) => (u32::from(v4).into(), 32),
        IpAddr::V6(v6) => (v6.into(), 128),
    }
}

fn in_prefix(addr: IpAddr, prefix: &Value) -> bool {
    let text = prefix.as_str().unwrap();
    let (base, len) = text.split_once('/').unwrap_or((text, ""));
    let base: IpAddr = base.parse().unwrap();
    let ((addr, width), (base, base_width)) = (bits(addr), bits(base));
    let len = if len.is_empty() {
        width
    } else {
        len.parse().unwrap()
    };
    // Shifted out are the bits that need not agree; all of them with /0.
    width == base_width && (addr ^ base).checked_shr(width - len).unwrap_or(0) == 0
}

fn in_range(port: u16, range: &Value) -> bool {
    let (first, last) = match range {
        Value::Number(n) => (n.as_u64().unwrap(), n.as_u64().unwrap()),
        other => {
            let text = other.as_str().unwrap();
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            (first.parse().unwrap(), last.parse().unwrap())
        }
    };
    (first..=last).contains(&port.into())
}
