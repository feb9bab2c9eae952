//! Packets for people and for programs, a line each.

use serde_json::Value;
use serde_json::json;

use super::Packet;
use super::Source;
use super::headers::Headers;
use super::source_name;

const SECOND: u64 = 1_000_000_000;

/// A packet as a line of text: seconds since 1970, interface, direction, headers, step.
pub(crate) fn line(packet: &Packet<'_>, interface: &str, source: Option<&Source>) -> String {
    let direction = if packet.is_outbound() { "out" } else { "in" };
    let mut line = format!(
        "{}.{:09} {interface} {direction}",
        packet.time / SECOND,
        packet.time % SECOND
    );
    match Headers::of(packet) {
        Some(h) => {
            line += &format!(
                " {} > {} [{}] seq {} ack {} win {} len {}",
                h.src, h.dst, h.flags, h.seq, h.ack, h.window, h.payload
            );
            if packet.segments > 1 {
                line += &format!(" in {} segments", packet.segments);
            }
            if !h.mptcp.is_empty() {
                line += &format!(" <{}>", h.mptcp.join(","));
            }
        }
        None => line += &format!(" {} bytes, of which too few were copied", packet.len),
    }
    line + &format!(" ({})", source_name(source, packet.step))
}

/// The same as JSON.
pub(crate) fn object(packet: &Packet<'_>, interface: &str, source: Option<&Source>) -> Value {
    let hex: Vec<String> = packet.bytes.iter().map(|b| format!("{b:02x}")).collect();
    let mut object = json!({
        "time": packet.time,
        "interface": interface,
        "hook": packet.hook.name(),
        "chain": source.map(|source| &source.chain),
        "step": source_name(source, packet.step),
        "zone": packet.zone,
        "length": packet.len,
        "segments": packet.segments,
        "segment_size": packet.segment_size,
        "keys_zeroed": packet.no_keys,
        "framing": if packet.raw_ip { "ip" } else { "ethernet" },
        "bytes": hex.concat(),
    });
    if let Some(h) = Headers::of(packet) {
        object["tcp"] = json!({
            "src": h.src.ip(),
            "sport": h.src.port(),
            "dst": h.dst.ip(),
            "dport": h.dst.port(),
            "seq": h.seq,
            "ack": h.ack,
            "flags": h.flags,
            "window": h.window,
            "payload": h.payload,
            "mptcp": h.mptcp,
        });
    }
    object
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    fn frame() -> Vec<u8> {
        let mut bytes = vec![0; 12];
        bytes.extend([8, 0]);
        bytes.extend([0x45, 0, 0, 144, 0, 0, 0, 0, 64, 6, 0, 0]);
        bytes.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 7, 0, 0, 0, 8]);
        bytes.extend([0x60, 0x18, 2, 0, 0, 0, 0, 0, 30, 4, 0x50, 1]);
        bytes
    }

    #[test]
    fn lines() {
        let source = Source {
            chain: "watch".to_owned(),
            step: "watch/act[0]".to_owned(),
        };
        let bytes = record(&frame(), |raw| raw.segments = 2);
        let packet = Packet::parse(&bytes, 5 * SECOND).unwrap();
        assert_eq!(
            line(&packet, "eth0", Some(&source)),
            "5.000000007 eth0 in 10.0.0.1:40000 > 10.0.0.2:80 [P.] seq 7 ack 8 win 512 len 100 \
             in 2 segments <mp_prio> (watch/act[0])"
        );
        let object = object(&packet, "eth0", None);
        assert_eq!(object["tcp"]["mptcp"], json!(["mp_prio"]));
        assert_eq!(
            (&object["chain"], &object["step"]),
            (&json!(null), &json!("step 3, gone"))
        );
    }

    #[test]
    fn headers_that_were_not_copied() {
        let bytes = record(&frame()[..40], |_| {});
        let packet = Packet::parse(&bytes, 0).unwrap();
        assert_eq!(
            line(&packet, "if9", None),
            "0.000000007 if9 in 1000 bytes, of which too few were copied (step 3, gone)"
        );
    }
}
