//! Packets made from those of fixtures and captures.

use emptcp_test::Framing;
use fastrand::Rng;

use super::layout::layout;
use super::layout::options;
use super::parts::Parts;
use super::parts::right;

/// A packet to begin with.
#[derive(Clone, Debug)]
pub(crate) struct Seed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) framing: Framing,
    /// `None`: no whole TCP packet; its bytes are changed, no more.
    parts: Option<Parts>,
}

/// Options that were seen, as bytes.
pub(crate) type Pool = Vec<Vec<u8>>;

/// The shortest frame that a test run takes.
const SHORTEST: usize = 14;
/// Bytes of payload, so that test runs at tc take the frame.
const PAYLOAD_MAX: usize = 1400;
/// Flags of TCP that are usual, and some that are not.
const FLAGS: [u8; 12] = [2, 0x12, 0x10, 0x18, 0x11, 4, 0x14, 0xc2, 0x30, 0, 3, 0xff];
/// Kinds of options: those of the kernel, of MPTCP most often.
const KINDS: [u8; 14] = [0, 1, 2, 3, 4, 5, 8, 19, 29, 30, 30, 30, 34, 253];
const EDGES: [u8; 10] = [0, 1, 2, 3, 4, 0x0f, 0x10, 0x7f, 0x80, 0xff];

impl Seed {
    pub(crate) fn new(bytes: Vec<u8>, framing: Framing) -> Self {
        let parts = Parts::new(&bytes, framing);
        Self {
            bytes,
            framing,
            parts,
        }
    }

    /// Options in it.
    pub(crate) fn options(&self) -> impl Iterator<Item = Vec<u8>> {
        let area = self.parts.as_ref().map_or(&[][..], |p| &p.options);
        options(area).unwrap_or_default().into_iter().map(Vec::from)
    }

    /// Another packet of the kind.
    pub(crate) fn mutated(&self, rng: &mut Rng, pool: &Pool) -> Vec<u8> {
        let Some(parts) = self.parts.as_ref().filter(|_| rng.u8(..10) > 0) else {
            let mut bytes = self.bytes.clone();
            for _ in 0..rng.u8(..3) {
                untrue(rng, &mut bytes, self.framing);
            }
            return bytes;
        };
        let mut parts = parts.clone();
        for _ in 0..[0, 0, 1, 1, 1, 2, 3, 6][rng.usize(..8)] {
            change(rng, &mut parts, pool);
        }
        let mut bytes = parts.build();
        if rng.u8(..3) == 0 {
            for _ in 0..rng.u8(1..3) {
                untrue(rng, &mut bytes, self.framing);
            }
            if rng.u8(..4) > 0 {
                right(&mut bytes, self.framing);
            }
        }
        if rng.u8(..8) == 0 {
            wrong(rng, &mut bytes, self.framing);
        }
        bytes
    }
}

fn pick<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

/// A byte at its edges or anywhere.
fn byte(rng: &mut Rng) -> u8 {
    if rng.bool() {
        pick(rng, &EDGES)
    } else {
        rng.u8(..)
    }
}

fn scatter(rng: &mut Rng, bytes: &mut [u8]) {
    for b in bytes {
        *b = byte(rng);
    }
}

fn bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// One change after which lengths and checksums are true.
fn change(rng: &mut Rng, p: &mut Parts, pool: &Pool) {
    match rng.u8(..20) {
        0..=4 => change_options(rng, p, pool),
        5..=7 => change_option(rng, p),
        8 => {
            p.options = vec![0; 4 * rng.usize(..=10)];
            scatter(rng, &mut p.options);
        }
        9 | 10 => p.tcp[13] = pick(rng, &FLAGS),
        11 => scatter(rng, &mut p.tcp[14..16]),
        12 => {
            let at = pick(rng, &[0, 4, 8]);
            scatter(rng, &mut p.tcp[at..at + 4]);
        }
        13 => scatter(rng, &mut p.tcp[18..20]),
        14 => {
            let len = pick(rng, &[0, 0, 1, 2, 7, 100, PAYLOAD_MAX]);
            let len = if rng.bool() {
                len
            } else {
                rng.usize(..PAYLOAD_MAX)
            };
            p.payload = bytes(rng, len);
        }
        15 if p.framing == Framing::Ethernet => {
            let tag = [pick(rng, &[0x81, 0x88]), 0, byte(rng), byte(rng)];
            let tag = if tag[0] == 0x88 {
                [0x88, 0xa8, tag[2], tag[3]]
            } else {
                tag
            };
            match p.tags.len() {
                0..=2 => p.tags.insert(0, tag),
                _ => p.tags.clear(),
            }
        }
        16 | 17 => change_ip(rng, p),
        18 => {
            // Class, label, hop limit: not what the lengths depend on.
            let at = if p.version() == 4 {
                pick(rng, &[1, 4, 5, 8])
            } else {
                pick(rng, &[1, 2, 3, 7])
            };
            p.ip[at] = byte(rng);
        }
        _ => {
            let len = pick(rng, &[0, 0, 1, 6, 46]);
            p.pad = bytes(rng, len);
        }
    }
}

/// Other options than there were.
fn change_options(rng: &mut Rng, p: &mut Parts, pool: &Pool) {
    let old: Vec<Vec<u8>> = options(&p.options)
        .unwrap_or_default()
        .into_iter()
        .map(Vec::from)
        .collect();
    let mut list = match rng.u8(..3) {
        0 => Vec::new(),
        _ => old,
    };
    match rng.u8(..4) {
        0 if !list.is_empty() => {
            list.remove(rng.usize(..list.len()));
        }
        1 => rng.shuffle(&mut list),
        _ => {
            for _ in 0..rng.usize(1..5) {
                list.insert(rng.usize(..=list.len()), pick(rng, pool));
            }
        }
    }
    p.options = list.concat();
    // What is cut in the middle contradicts itself: often, but not always, leave it out.
    while p.options.len() > 40 && !list.is_empty() && rng.u8(..8) > 0 {
        list.pop();
        p.options = list.concat();
    }
    let nops = p.options.len().next_multiple_of(4) - p.options.len();
    match rng.u8(..3) {
        0 => p.options.extend(vec![1; nops]),
        1 => p.options.splice(..0, vec![1; nops]).for_each(drop),
        _ => {}
    }
}

/// A byte of one option, mostly of its beginning.
fn change_option(rng: &mut Rng, p: &mut Parts) {
    let starts: Vec<usize> = {
        let list = options(&p.options).unwrap_or_default();
        let long = |o: &&[u8]| o.len() > 1;
        let base = p.options.as_ptr() as usize;
        list.into_iter()
            .filter(long)
            .map(|o| o.as_ptr() as usize - base)
            .collect()
    };
    if starts.is_empty() {
        return scatter(rng, &mut p.options);
    }
    let start = pick(rng, &starts);
    let at = (start + pick(rng, &[0, 1, 1, 2, 2, 3, 4, 5])).min(p.options.len() - 1);
    let len = p.options[start + 1];
    p.options[at] = match at - start {
        0 => pick(rng, &KINDS),
        1 => pick(
            rng,
            &[
                0,
                1,
                2,
                3,
                4,
                8,
                12,
                20,
                40,
                41,
                255,
                len.wrapping_sub(1),
                len + 1,
                len + 4,
            ],
        ),
        // Subtype and flags.
        2 => rng.u8(..),
        _ => byte(rng),
    };
}

/// Addresses, options of IPv4, extension headers of IPv6.
fn change_ip(rng: &mut Rng, p: &mut Parts) {
    if rng.u8(..3) == 0 {
        let from = if p.version() == 4 { 12 } else { 8 };
        return scatter(rng, &mut p.ip[from..]);
    }
    if p.version() == 4 {
        p.ip_options = vec![1; 4 * rng.usize(..=10)];
        return;
    }
    if p.ext.len() > 8 {
        return p.ext.clear();
    }
    let header = match rng.u8(..6) {
        0 => (44, vec![0; 8]),
        1 => {
            let mut ah = bytes(rng, 24);
            ah[1] = 4;
            (51, ah)
        }
        2 => {
            // A routing header that has been followed: no other destination.
            let mut routing = vec![0; 24];
            (routing[1], routing[2]) = (2, 4);
            (43, routing)
        }
        other => {
            let len = 8 * rng.usize(1..4);
            let mut ext = vec![0; len];
            (ext[1], ext[2], ext[3]) = ((len / 8 - 1) as u8, 1, (len - 4) as u8);
            (if other == 3 { 0 } else { 60 }, ext)
        }
    };
    p.ext.insert(rng.usize(..=p.ext.len()), header);
}

/// One change that leaves lengths, or what they say, untrue.
fn untrue(rng: &mut Rng, frame: &mut Vec<u8>, framing: Framing) {
    let Some(l) = layout(frame, framing) else {
        let at = rng.usize(..frame.len());
        frame[at] = byte(rng);
        return;
    };
    let len_at = if l.version == 4 { l.ip + 2 } else { l.ip + 4 };
    match rng.u8(..10) {
        0 => frame[l.tcp + 12] = rng.u8(..),
        1 => frame[l.ip] = frame[l.ip] & 0xf0 | rng.u8(..16),
        2 => frame[len_at + 1] = frame[len_at + 1].wrapping_add(pick(rng, &[1, 4, 20, 252, 255])),
        3 => scatter(rng, &mut frame[len_at..len_at + 2]),
        4 => {
            let end = frame.len();
            frame.truncate(rng.usize(SHORTEST.min(end)..=end));
        }
        5 => {
            let at = rng.usize(..l.payload);
            frame[at] = byte(rng);
        }
        6 => {
            let at = rng.usize(..l.payload);
            frame[at] ^= 1 << rng.u8(..8);
        }
        7 if l.version == 4 => scatter(rng, &mut frame[l.ip + 6..l.ip + 8]),
        7 => frame[l.ip + 6] = pick(rng, &[0, 6, 17, 43, 44, 51, 59, 60, 135]),
        8 if l.payload > l.tcp + 20 => {
            let at = rng.usize(l.tcp + 20..l.payload);
            frame[at] = byte(rng);
        }
        _ => {
            let more = rng.usize(..40);
            frame.extend(bytes(rng, more));
        }
    }
}

/// A wrong checksum, or one of the two that 0 has.
fn wrong(rng: &mut Rng, frame: &mut [u8], framing: Framing) {
    let Some(l) = layout(frame, framing) else {
        return;
    };
    let at = match l.version {
        4 if rng.u8(..3) == 0 => l.ip + 10,
        _ => l.tcp + 16,
    };
    let sum = match rng.u8(..4) {
        0 => pick(rng, &[0, 0xffff]),
        _ => rng.u16(..),
    };
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
