//! Events for people and for programs, a line each.

use serde_json::Value;
use serde_json::json;

use super::Change;
use super::Detail;
use super::End;
use super::Event;
use super::Side;
use crate::capture::Source;
use crate::capture::source_name;
use crate::policy::quantity::show_token;

const SECOND: u64 = 1_000_000_000;

/// A time in seconds since 1970.
pub(crate) fn seconds(time: u64) -> String {
    format!("{}.{:09}", time / SECOND, time % SECOND)
}

/// That events were lost since it was last told, and how many in all.
pub(crate) fn lost(time: u64, more: u64, total: u64) -> Value {
    json!({ "time": time, "type": "lost", "events": more, "total": total })
}

/// An event as a line of text: seconds since 1970, type, what it says, token, subflow, interface,
/// step. What is not known is left out.
pub(crate) fn line(event: &Event, interface: &str, source: Option<&Source>) -> String {
    let mut line = format!(
        "{} {} {}",
        seconds(event.time),
        event.r#type().name(),
        said(&event.detail)
    );
    if let Some(token) = event.token {
        line += &format!(" token {token:08x}");
    }
    if let Some(token) = event.client_token {
        line += &format!(" client-token {token:08x}");
    }
    let side = match event.side {
        Some(Side::Client) => " client",
        Some(Side::Server) => " server",
        None => "",
    };
    line += &format!(
        "{side} {} > {} dev {interface} ({})",
        event.src,
        event.dst,
        source_name(source, event.step)
    );
    line
}

fn said(detail: &Detail) -> String {
    match detail {
        Detail::Connection {
            change,
            version,
            bytes,
            duration,
            subflows,
        } => match change {
            Change::Opened => format!("opened version {version}"),
            Change::Closed(end) => format!(
                "closed by {end} after {} s, subflows {subflows} client-bytes {} server-bytes {}",
                millis(*duration),
                bytes[0],
                bytes[1]
            ),
        },
        Detail::Subflow {
            change,
            kind,
            index,
            duration,
            ends,
            ..
        } => {
            let said = match change {
                Change::Opened => format!("opened {kind} index {index}"),
                Change::Closed(end) => format!(
                    "closed by {end} {kind} index {index} after {} s, bytes {} back {}, \
                     retransmitted {} back {}",
                    millis(*duration),
                    ends[0].bytes,
                    ends[1].bytes,
                    ends[0].retransmitted,
                    ends[1].retransmitted
                ),
            };
            let id = |end: &End| end.addr_id.map_or("-".to_owned(), |id| id.to_string());
            let backup = match (ends[0].backup, ends[1].backup) {
                (false, false) => "",
                (true, false) => " backup",
                (false, true) => " backup-by-peer",
                (true, true) => " backup-by-both",
            };
            format!("{said} ids {}-{}{backup}", id(&ends[0]), id(&ends[1]))
        }
        Detail::Fallback { cause, seq } => format!("cause {cause} seq {seq}"),
        Detail::AddAddr {
            addr,
            port,
            addr_id,
            echo,
        } => {
            let port = port.map(|p| format!(" port {p}")).unwrap_or_default();
            let echo = if *echo { " echo" } else { "" };
            format!("id {addr_id} {addr}{port}{echo}")
        }
        Detail::RemoveAddr { addr_ids, count } => {
            let ids: Vec<String> = addr_ids.iter().map(u8::to_string).collect();
            let more = if usize::from(*count) > ids.len() {
                format!(" of {count}")
            } else {
                String::new()
            };
            format!("ids {}{more}", ids.join(","))
        }
        Detail::Prio { backup: true } => "backup on".to_owned(),
        Detail::Prio { backup: false } => "backup off".to_owned(),
        Detail::Threshold { name, bytes } => {
            format!("{name:?} bytes {} back {}", bytes[0], bytes[1])
        }
        Detail::Quota {
            name,
            bytes,
            limit,
            period,
        } => {
            let period = match period {
                0 => String::new(),
                period => format!(" in {} s", millis(*period)),
            };
            format!("{name:?} used up, bytes {bytes} of {limit}{period}")
        }
    }
}

/// Nanoseconds as seconds.
fn millis(duration: u64) -> String {
    let millis = duration / 1_000_000;
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

/// The same as JSON.
pub(crate) fn object(event: &Event, interface: &str, source: Option<&Source>) -> Value {
    let side = event.side.map(|side| match side {
        Side::Client => "client",
        Side::Server => "server",
    });
    let mut object = json!({
        "time": event.time,
        "type": event.r#type().name(),
        "interface": interface,
        "hook": event.hook.name(),
        "chain": source.map(|source| &source.chain),
        "step": source_name(source, event.step),
        "zone": event.zone,
        "token": event.token.map(show_token),
        "client_token": event.client_token.map(show_token),
        "src": event.src.ip(),
        "sport": event.src.port(),
        "dst": event.dst.ip(),
        "dport": event.dst.port(),
        "src_is": side,
    });
    let mut put = |name: &str, value: Value| object[name] = value;
    match &event.detail {
        Detail::Connection {
            change,
            version,
            bytes,
            duration,
            subflows,
        } => {
            put("version", json!(version));
            if changed(change, &mut put) {
                put("duration", json!(duration));
                put("subflows", json!(subflows));
                put("client_bytes", json!(bytes[0]));
                put("server_bytes", json!(bytes[1]));
            }
        }
        Detail::Subflow {
            change,
            kind,
            version,
            index,
            duration,
            ends,
        } => {
            put("kind", json!(kind));
            put("version", json!(version));
            put("index", json!(index));
            let closed = changed(change, &mut put);
            if closed {
                put("duration", json!(duration));
            }
            for (name, end) in ["src", "dst"].into_iter().zip(ends) {
                put(&format!("{name}_addr_id"), json!(end.addr_id));
                put(&format!("{name}_backup"), json!(end.backup));
                if closed {
                    put(&format!("{name}_bytes"), json!(end.bytes));
                    put(&format!("{name}_retransmitted"), json!(end.retransmitted));
                }
            }
        }
        Detail::Fallback { cause, seq } => {
            put("cause", json!(cause));
            put("seq", json!(seq));
        }
        Detail::AddAddr {
            addr,
            port,
            addr_id,
            echo,
        } => {
            put("addr", json!(addr));
            put("port", json!(port));
            put("addr_id", json!(addr_id));
            put("echo", json!(echo));
        }
        Detail::RemoveAddr { addr_ids, count } => {
            put("addr_ids", json!(addr_ids));
            put("count", json!(count));
        }
        Detail::Prio { backup } => put("backup", json!(backup)),
        Detail::Threshold { name, bytes } => {
            put("name", json!(name));
            put("src_bytes", json!(bytes[0]));
            put("dst_bytes", json!(bytes[1]));
        }
        Detail::Quota {
            name,
            bytes,
            limit,
            period,
        } => {
            put("name", json!(name));
            put("bytes", json!(bytes));
            put("limit", json!(limit));
            put("period", json!(period));
        }
    }
    object
}

/// Puts what became of something; whether it ended.
fn changed(change: &Change, put: &mut impl FnMut(&str, Value)) -> bool {
    match change {
        Change::Opened => {
            put("event", json!("opened"));
            false
        }
        Change::Closed(end) => {
            put("event", json!("closed"));
            put("by", json!(end));
            true
        }
    }
}
