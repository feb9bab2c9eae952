//! Subflows as programs are told of them (`docs/exec.md`): the text that serde makes of
//! [`SubflowView`], in a fraction of its time, which counts with ten thousand of them in each round.

use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;

use serde::Serialize;

use super::EndView;
use super::KernelView;
use super::SubflowView;

/// Appends a subflow, with the key that it has in tables: as its SYN went.
pub(crate) fn push_subflow(line: &mut Vec<u8>, view: &SubflowView) {
    let mut line = Line(line);
    line.raw("{\"subflow\":\"");
    line.key(view);
    line.raw("\",\"token\":");
    line.text(view.token.as_deref());
    line.number(",\"zone\":", view.zone);
    line.optional(",\"index\":", view.index);
    line.raw(",\"kind\":");
    line.text(view.kind);
    line.raw(",\"state\":");
    line.text(Some(view.state));
    line.number(",\"version\":", view.version);
    line.flag(",\"opener_known\":", Some(view.opener_known));
    line.raw(",\"from\":");
    line.end(&view.from);
    line.raw(",\"to\":");
    line.end(&view.to);
    line.raw(",\"client\":");
    line.text(view.client);
    line.raw(",\"fallback\":");
    line.other(view.fallback.as_ref());
    line.flag(",\"taken_over\":", Some(view.taken_over));
    line.number(",\"age_ms\":", view.age_ms);
    line.optional(",\"idle_ms\":", view.idle_ms);
    line.raw("}");
}

/// The key that a subflow has in tables.
pub(crate) fn subflow_key(view: &SubflowView) -> String {
    let mut key = Vec::new();
    Line(&mut key).key(view);
    String::from_utf8(key).unwrap_or_default()
}

/// A line that grows.
struct Line<'l>(&'l mut Vec<u8>);

impl Line<'_> {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn digits(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
    }

    /// A number behind its name.
    fn number(&mut self, name: &str, number: impl Into<u64>) {
        self.raw(name);
        self.digits(number.into());
    }

    fn optional(&mut self, name: &str, number: Option<impl Into<u64>>) {
        self.raw(name);
        match number {
            Some(number) => self.digits(number.into()),
            None => self.raw("null"),
        }
    }

    fn flag(&mut self, name: &str, flag: Option<bool>) {
        self.raw(name);
        self.raw(match flag {
            Some(true) => "true",
            Some(false) => "false",
            None => "null",
        });
    }

    fn text(&mut self, text: Option<&str>) {
        let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        match text {
            Some(text) if text.bytes().all(is_plain) => {
                self.raw("\"");
                self.raw(text);
                self.raw("\"");
            }
            text => self.other(text),
        }
    }

    /// What is rare.
    fn other(&mut self, value: Option<impl Serialize>) {
        match value.map(|value| serde_json::to_string(&value)) {
            Some(Ok(text)) => self.raw(&text),
            // Nothing of a view cannot be written.
            Some(Err(_)) | None => self.raw("null"),
        }
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                for (place, byte) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        self.raw(".");
                    }
                    self.digits(byte.into());
                }
            }
            // Into memory: it cannot fail.
            IpAddr::V6(address) => drop(write!(self.0, "{address}")),
        }
    }

    fn key(&mut self, view: &SubflowView) {
        for (place, end) in [&view.from, &view.to].into_iter().enumerate() {
            if place > 0 {
                self.raw("-");
            }
            match end.address {
                IpAddr::V4(_) => {
                    self.address(end.address);
                    self.number(":", end.port);
                }
                address => drop(write!(self.0, "{}", SocketAddr::new(address, end.port))),
            }
        }
    }

    fn end(&mut self, end: &EndView) {
        self.raw("{\"address\":\"");
        self.address(end.address);
        self.number("\",\"port\":", end.port);
        self.optional(",\"address_id\":", end.address_id);
        self.optional(",\"wscale\":", end.wscale);
        self.flag(",\"asks_backup\":", end.asks_backup);
        self.raw(",\"backup_wanted_by\":");
        self.other(end.backup_wanted_by.as_ref());
        self.raw(",\"interface\":");
        self.text(end.interface.as_deref());
        self.raw(",\"hook\":");
        self.text(end.hook);
        self.optional(",\"bytes\":", end.bytes);
        self.optional(",\"retransmitted_bytes\":", end.retransmitted_bytes);
        self.optional(",\"packets\":", end.packets);
        self.optional(",\"srtt_us\":", end.srtt_us);
        self.optional(",\"min_rtt_us\":", end.min_rtt_us);
        self.optional(",\"idle_ms\":", end.idle_ms);
        self.raw(",\"kernel\":");
        match &end.kernel {
            Some(kernel) => self.kernel(kernel),
            None => self.raw("null"),
        }
        self.raw("}");
    }

    fn kernel(&mut self, kernel: &KernelView) {
        self.raw("{\"token\":");
        self.text(kernel.token.as_deref());
        self.raw(",\"token_remote\":");
        self.text(kernel.token_remote.as_deref());
        self.optional(",\"cwnd\":", kernel.cwnd);
        self.optional(",\"srtt_us\":", kernel.srtt_us);
        self.optional(",\"rttvar_us\":", kernel.rttvar_us);
        self.optional(",\"retransmits\":", kernel.retransmits);
        self.optional(",\"mss\":", kernel.mss);
        self.optional(",\"in_flight\":", kernel.in_flight);
        self.optional(",\"unsent_bytes\":", kernel.unsent_bytes);
        self.raw("}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::FallbackView;
    use super::*;

    /// As serde has it, with the key in front.
    #[derive(Serialize)]
    struct Keyed<'v> {
        subflow: String,
        #[serde(flatten)]
        view: &'v SubflowView,
    }

    fn end(address: &str, known: bool) -> EndView {
        fn or<T>(known: bool, value: T) -> Option<T> {
            known.then_some(value)
        }
        EndView {
            address: address.parse().unwrap(),
            port: 65535,
            address_id: or(known, 255),
            wscale: or(known, 0),
            asks_backup: or(known, true),
            backup_wanted_by: or(known, vec!["a\"b".to_owned()]),
            // Interfaces may have such names.
            interface: or(known, "e\"t\\h\u{e9}".to_owned()),
            hook: or(known, "tc-ingress"),
            bytes: or(known, u64::MAX),
            retransmitted_bytes: or(known, 0),
            packets: or(known, 10),
            srtt_us: or(known, u32::MAX),
            min_rtt_us: or(known, 9),
            idle_ms: or(known, 100),
            kernel: or(
                known,
                KernelView {
                    token: Some("0x00000001".to_owned()),
                    token_remote: None,
                    cwnd: Some(10),
                    srtt_us: None,
                    rttvar_us: Some(1),
                    retransmits: Some(2),
                    mss: Some(3),
                    in_flight: Some(4),
                    unsent_bytes: Some(5),
                },
            ),
        }
    }

    #[test]
    fn it_is_the_text_of_serde() {
        for (known, from, to, key) in [
            (
                true,
                "10.0.0.1",
                "192.168.255.254",
                "10.0.0.1:65535-192.168.255.254:65535",
            ),
            (
                false,
                "fd00::1",
                "::ffff:10.0.0.1",
                "[fd00::1]:65535-[::ffff:10.0.0.1]:65535",
            ),
        ] {
            let view = SubflowView {
                token: known.then(|| "0x12345678".to_owned()),
                zone: 7,
                index: known.then_some(3),
                kind: known.then_some("joined"),
                state: "established",
                version: 1,
                opener_known: known,
                from: end(from, known),
                to: end(to, !known),
                client: known.then_some("from"),
                fallback: known.then(|| FallbackView {
                    cause: "no_mptcp".to_owned(),
                    sent_by: None,
                    sequence: 5,
                    age_ms: 6,
                }),
                taken_over: !known,
                age_ms: 1234,
                idle_ms: known.then_some(5),
            };
            let mut line = Vec::new();
            push_subflow(&mut line, &view);
            assert_eq!(subflow_key(&view), key);
            let subflow = key.to_owned();
            let text = serde_json::to_string(&Keyed {
                subflow,
                view: &view,
            })
            .unwrap();
            assert_eq!(String::from_utf8(line).unwrap(), text);
        }
    }
}
