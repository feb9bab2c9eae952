// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! No output of any test contains a key of its connections.
//!
//! Each rig learns the keys of its connections from the third ACKs that its hosts receive. All that
//! `emptcp` printed, wrote to files, or sent to programs and clients of its socket is kept, and
//! searched for them when the last rig goes: in hexadecimal, decimal, base64 and as single bytes, in
//! both byte orders. That is at the end of each test, where they run one by one.
//!
//! What a test itself writes into the folder of its rig is not searched. Evidence with keys that others
//! write, such as a capture, goes into a [`TempDir`] of its own.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use super::raw::Frames;
use super::rig::Netns;
use super::rig::TempDir;

/// What is known of keys, and what was printed and is not searched yet.
#[derive(Default)]
struct Known {
    /// How many rigs there are.
    rigs: usize,
    keys: Keys,
    outputs: Vec<Vec<u8>>,
}

static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

/// Locks it, also after a test that failed meanwhile.
fn locked() -> MutexGuard<'static, Option<Known>> {
    let mut known = KNOWN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    known.get_or_insert_default();
    known
}

/// Keeps what `emptcp` printed or sent, to be searched later.
pub(crate) fn heard(output: impl AsRef<[u8]>) {
    let output = output.as_ref();
    if let Some(known) = locked().as_mut()
        && !output.is_empty()
    {
        known.outputs.push(output.to_vec());
    }
}

/// Keys as numbers, in both byte orders.
#[derive(Debug, Default)]
pub(crate) struct Keys(HashSet<u64>);

impl Keys {
    /// Adds a key, as it is on the wire. A small number is none that an end has chosen: it would be
    /// found everywhere.
    fn add(&mut self, key: [u8; 8]) {
        let number = u64::from_be_bytes(key);
        if number >> 32 != 0 && number.swap_bytes() >> 32 != 0 {
            self.0.extend([number, number.swap_bytes()]);
        }
    }

    fn has(&self, number: u64) -> bool {
        self.0.contains(&number)
    }

    /// How a text or a file has one of the keys; `None`: it has none.
    fn found_in(&self, text: &[u8]) -> Option<&'static str> {
        if self.0.is_empty() {
            return None;
        }
        if self.in_hexadecimal(text) {
            return Some("in hexadecimal");
        }
        if self.in_decimal(text) {
            return Some("in decimal");
        }
        if self.byte_by_byte(text) {
            return Some("byte by byte");
        }
        if self.in_base64(text) {
            return Some("in base64");
        }
        self.plain(text).then_some("as it is on the wire")
    }

    /// With or without leading zeros, alone or among other digits.
    fn in_hexadecimal(&self, text: &[u8]) -> bool {
        let number = |digits: &[u8]| {
            let digits = str::from_utf8(digits).unwrap();
            self.has(u64::from_str_radix(digits, 16).unwrap())
        };
        let mut runs = text.split(|byte| !byte.is_ascii_hexdigit());
        runs.any(|run| match run.len() {
            ..9 => false,
            9..=16 => number(run),
            _ => run.windows(16).any(number),
        })
    }

    /// With or without a sign.
    fn in_decimal(&self, text: &[u8]) -> bool {
        let mut runs = text.split(|byte| !byte.is_ascii_digit());
        runs.any(|run| {
            let digits = str::from_utf8(run).unwrap();
            let number = (10..=20).contains(&run.len()).then(|| digits.parse());
            matches!(number, Some(Ok(n)) if self.has(n) || self.has(n.wrapping_neg()))
        })
    }

    /// Such as `0x11, 0x22`, `11:22` or `[17, 34]`.
    fn byte_by_byte(&self, text: &[u8]) -> bool {
        let mut words = text
            .split(|byte| !byte.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty());
        let mut runs = [(0, 0u64); 2];
        words.any(|word| {
            let digits = match word {
                [b'0', b'x', digits @ ..] | [b'x', digits @ ..] => digits,
                _ => word,
            };
            let digits = str::from_utf8(digits).unwrap();
            let mut found = false;
            for ((count, last), base) in runs.iter_mut().zip([16, 10]) {
                match u8::from_str_radix(digits, base) {
                    Ok(byte) => (*count, *last) = (*count + 1, *last << 8 | u64::from(byte)),
                    Err(_) => *count = 0,
                }
                found |= *count >= 8 && self.has(*last);
            }
            found
        })
    }

    /// In the alphabet of RFC 4648, 4 or 5, at any place of what is encoded.
    fn in_base64(&self, text: &[u8]) -> bool {
        let value = |byte: u8| match byte {
            b'A'..=b'Z' => Some(byte - b'A'),
            b'a'..=b'z' => Some(byte - b'a' + 26),
            b'0'..=b'9' => Some(byte - b'0' + 52),
            b'+' | b'-' => Some(62),
            b'/' | b'_' => Some(63),
            _ => None,
        };
        let mut runs = text.split(|byte| value(*byte).is_none());
        // A key takes 10 whole digits, and bits of one or two others.
        runs.any(|run| {
            let mut last = 0u128;
            run.len() >= 11
                && run.iter().enumerate().any(|(at, byte)| {
                    last = last << 6 | u128::from(value(*byte).unwrap_or(0));
                    // What comes before may be no part of it: bytes may end at any even bit.
                    at >= 10 && [0, 2, 4].iter().any(|bits| self.has((last >> bits) as u64))
                })
        })
    }

    fn plain(&self, text: &[u8]) -> bool {
        // Text is valid, and eight random bytes are not.
        str::from_utf8(text).is_err()
            && text
                .windows(8)
                .filter_map(<[u8]>::first_chunk)
                .any(|bytes| self.has(u64::from_be_bytes(*bytes)))
    }
}

/// The keys in MP_CAPABLE of a packet that begins with its IP header: of the third ACK or of the first
/// data (RFC 8684, 3.1).
fn keys_of(packet: &[u8]) -> Option<[[u8; 8]; 2]> {
    let tcp = match packet.first()? >> 4 {
        4 => usize::from(packet[0] & 15) * 4,
        _ => 40,
    };
    let end = tcp + usize::from(packet.get(tcp + 12)? >> 4) * 4;
    let mut options = packet.get(tcp + 20..end)?;
    loop {
        match *options {
            [1, ref rest @ ..] => options = rest,
            [30, len, subtype, ..] if len >= 20 && subtype >> 4 == 0 => {
                let key = |at: usize| options.get(at..)?.first_chunk().copied();
                return Some([key(4)?, key(12)?]);
            }
            [_, len, ..] if len >= 2 => options = options.get(usize::from(len)..)?,
            _ => return None,
        }
    }
}

/// Hears the third ACKs that come to the hosts of a rig.
#[derive(Debug)]
pub(crate) struct Taps(Vec<Frames>);

impl Taps {
    pub(crate) fn new(hosts: &[&Netns]) -> Self {
        if let Some(known) = locked().as_mut() {
            known.rigs += 1;
        }
        let taps = hosts.iter().map(|host| host.within(Frames::keys));
        Self(taps.flatten().collect())
    }

    /// Learns the keys that came by.
    fn learn(&self, keys: &mut Keys) {
        for tap in &self.0 {
            while let Some(packet) = tap.next(Duration::ZERO) {
                for key in keys_of(&packet).into_iter().flatten() {
                    keys.add(key);
                }
            }
        }
    }

    /// How outputs that were not searched yet show keys, and where.
    pub(crate) fn look(&self, folder: &TempDir) -> Vec<String> {
        let mut known = locked();
        let Some(known) = known.as_mut() else {
            return Vec::new();
        };
        self.learn(&mut known.keys);
        known.outputs.extend(folder.outputs());
        let outputs = std::mem::take(&mut known.outputs);
        outputs
            .iter()
            .filter_map(|output| {
                let how = known.keys.found_in(output)?;
                let text = String::from_utf8_lossy(output);
                let beginning: String = text.chars().take(200).collect();
                Some(format!("{how}, in: {beginning} ..."))
            })
            .collect()
    }

    /// At the end of a rig: what the outputs of all tests show, when this is the last rig.
    pub(crate) fn last_look(&self, folder: &TempDir) -> Vec<String> {
        let last = {
            let mut known = locked();
            let Some(known) = known.as_mut() else {
                return Vec::new();
            };
            self.learn(&mut known.keys);
            known.rigs -= 1;
            known.rigs == 0
        };
        if !last {
            folder.outputs().into_iter().for_each(heard);
            return Vec::new();
        }
        let found = self.look(folder);
        *locked() = None;
        found
    }
}

#[test]
fn a_key_is_found_in_every_shape() {
    let key = [0x99, 0x0a, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x01];
    let mut keys = Keys::default();
    keys.add(key);
    keys.add([0; 8]);
    keys.add([0, 0, 0, 0, 0, 0, 0, 9]);
    let turned = {
        let mut turned = key;
        turned.reverse();
        turned
    };
    for bytes in [key, turned] {
        let number = u64::from_be_bytes(bytes);
        let list = |each: fn(&u8) -> String, between: &str| {
            bytes.iter().map(each).collect::<Vec<_>>().join(between)
        };
        for text in [
            format!("key 0x{number:x}, of"),
            format!("{number:#018X}"),
            format!("abcdef{number:016x}0123456789"),
            format!("{{\"key\":{number}}}"),
            format!("{}", number.cast_signed()),
            list(|b| format!("{b:02x}"), ":"),
            list(|b| format!("0x{b:02x}"), ", "),
            list(|b| format!("\"{b:#04x}\""), ","),
            list(|b| format!("\\x{b:02x}"), ""),
            format!("{bytes:?}"),
            format!("of {:x?}", [&[7, 7], &bytes[..], &[7]].concat()),
        ] {
            assert!(keys.found_in(text.as_bytes()).is_some(), "{text}");
            assert_eq!(Keys::default().found_in(text.as_bytes()), None);
        }
        let file = [b"\xff\xfe\0\0", &bytes[..], b"and so on"].concat();
        assert_eq!(keys.found_in(&file), Some("as it is on the wire"));
    }
    // As base64(1) prints it, at any place of three bytes.
    for text in [
        "mQq7zN3u/wE=",
        "mQq7zN3u_wE",
        "AJkKu8zd7v8B",
        "AACZCrvM3e7/AQAA",
        "AAAAmQq7zN3u/wEA",
    ] {
        assert_eq!(keys.found_in(text.as_bytes()), Some("in base64"), "{text}");
    }
    for text in [
        "",
        "0000000000000000 00000009 9",
        "990abbccddeeff",
        "0x990abbccddeeff02",
        "a status of 18446744073709551615 and [0, 0, 0, 0, 0, 0, 0, 0, 9]",
        "AAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        assert_eq!(keys.found_in(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn keys_are_found_in_packets() {
    use emptcp_test::hosts::Family;
    use emptcp_test::packet::Packet;
    use serde_json::json;

    let keys = json!({ "sender_key": "0x1122334455667788", "receiver_key": "0x99aabbccddeeff00" });
    let timestamps = json!({ "timestamps": [1, 2] });
    for family in Family::ALL {
        for (options, there) in [
            (json!([{ "mp_capable": keys }]), true),
            (json!([timestamps, { "mp_capable": keys }]), true),
            (json!([timestamps, { "mp_capable": {} }]), false),
            (json!([timestamps, { "dss": { "ack": 1 } }]), false),
            (json!([]), false),
        ] {
            let packet: Packet =
                serde_json::from_value(json!({ "tcp": { "flags": "A", "options": options } }))
                    .unwrap();
            let packet = packet.build(family).unwrap().bytes;
            let found = keys_of(&packet[14..]).map(|keys| keys.map(u64::from_be_bytes));
            let keys = [0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00];
            assert_eq!(found, there.then_some(keys), "{family:?}: {options}");
        }
    }
}

/// Keys of a real connection that a test plants itself are found, wherever it is that outputs come
/// from, and no others.
#[test]
fn root_keys_that_are_shown_are_found() {
    use std::io::Read as _;
    use std::io::Write as _;

    use super::pair;
    use super::rig::Rig;
    use super::rig::Tc;

    for address in ["10.77.0.2", "fd77::2"] {
        let rig = Rig::new(1, Tc::Tcx);
        let address: std::net::IpAddr = address.parse().unwrap();
        let listener = pair::listen(&rig.near, address.is_ipv6(), 5001);
        let (mut near, mut far) = pair::connect(&rig.far, (address, 5001).into(), &listener);
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
        assert_eq!(rig.shown_keys(), [""; 0]);
        let key = {
            let known = locked();
            *known.as_ref().unwrap().keys.0.iter().next().unwrap()
        };
        for (text, count) in [
            (format!("a key of a connection: {key:016x}"), 1),
            (format!("no key of a connection: {:016x}", key ^ 1), 0),
        ] {
            // A command, a reader or program that writes to a file, a line that is read.
            let mut command = rig.near.command("echo");
            let _: super::rig::Ran = command.arg(&text).output().unwrap().into();
            std::fs::write(rig.folder.0.join("run.err"), &text).unwrap();
            heard(&text);
            let found = rig.shown_keys();
            assert_eq!(found.len(), 3 * count, "{found:#?}");
            std::fs::remove_file(rig.folder.0.join("run.err")).unwrap();
        }
    }
}
