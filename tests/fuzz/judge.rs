//! What must hold of any packet that a module let go. What a module may do comes from its
//! description and its fixtures, so that a new one needs nothing here.

use std::collections::BTreeSet;

use emptcp::datapath::Verdict as Ended;
use emptcp::module::Kind;
use emptcp::module::Module;
use emptcp_test::Framing;
use emptcp_test::csum;
use emptcp_test::fixtures::Entry;
use emptcp_test::fixtures::Outcome;
use emptcp_test::fixtures::Verdict;

use super::layout::Layout;
use super::layout::fields;
use super::layout::layout;
use super::layout::options;

/// IP packets that grow stay within it, whatever the MTU of the interface of test runs.
const MTU: usize = 1500;
const RST: u8 = 4;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
/// URG, RST, SYN and FIN.
const CONTROL: u8 = 0x27;
/// TCP header with MP_TCPRST.
const RST_LEN: usize = 24;

/// What a module may do with a packet.
#[derive(Clone, Debug)]
pub(crate) struct May {
    verdicts: Vec<Verdict>,
    /// Fields of the packet that a row of the fixtures changes.
    fields: BTreeSet<&'static str>,
    mark: bool,
    grows: bool,
    shrinks: bool,
    /// Makes a RST of what is none: then the payload goes.
    resets: bool,
    /// Fields that change where a packet loses its payload and becomes an ACK that carries an option
    /// (`emptcp/carrier.h`), if a row shows that.
    carries: Option<BTreeSet<&'static str>>,
    /// A row matches: a module that needs another one before it does nothing alone.
    matches: bool,
    /// Reasons that its rows count.
    reasons: BTreeSet<String>,
}

/// Names of the fields that differ.
fn changed(before: (&[u8], &Layout), after: (&[u8], &Layout)) -> Vec<&'static str> {
    let (before, after) = (fields(before.0, before.1), fields(after.0, after.1));
    let other = |name| {
        after
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, bytes)| bytes)
    };
    let differ = before
        .iter()
        .filter(|(name, bytes)| other(*name) != Some(bytes));
    differ.map(|(name, _)| *name).collect()
}

fn flags(bytes: &[u8], l: &Layout) -> u8 {
    bytes[l.tcp + 13]
}

fn becomes_reset(before: (&[u8], &Layout), after: (&[u8], &Layout)) -> bool {
    flags(before.0, before.1) & RST == 0 && flags(after.0, after.1) & RST != 0
}

fn payload<'p>(bytes: &'p [u8], l: &Layout) -> &'p [u8] {
    &bytes[l.payload..l.pad]
}

fn becomes_carrier(before: (&[u8], &Layout), after: (&[u8], &Layout)) -> bool {
    let empty = |(bytes, l)| payload(bytes, l).is_empty();
    !empty(before) && empty(after) && flags(after.0, after.1) & RST == 0
}

impl May {
    /// By the module's description, and all rows of its fixtures.
    pub(crate) fn new<'e>(module: &Module, rows: impl Iterator<Item = &'e Entry>) -> Self {
        let mut may = Self {
            verdicts: vec![Verdict::Pass],
            fields: BTreeSet::new(),
            mark: false,
            grows: false,
            shrinks: false,
            resets: false,
            carries: None,
            matches: false,
            reasons: BTreeSet::new(),
        };
        for row in rows {
            may.matches |= row.outcome == Outcome::Match;
            if let Outcome::Error(reason) = &row.outcome {
                may.reasons.insert(reason.clone());
            }
            // Selectors change nothing, whatever their fixtures say.
            if module.kind == Kind::Selector {
                continue;
            }
            may.verdicts.push(row.verdict);
            may.mark |= row.mark != row.expected_mark;
            if row.input == row.expected {
                continue;
            }
            let (before, after) = (&row.input[..], &row.expected[..]);
            may.grows |= after.len() > before.len();
            may.shrinks |= after.len() < before.len();
            let at = |bytes| layout(bytes, row.framing);
            if let (Some(b), Some(a)) = (at(before), at(after)) {
                let (before, after) = ((before, &b), (after, &a));
                // What a carrier may change, another packet may not.
                let fields = match becomes_carrier(before, after) {
                    true => may.carries.get_or_insert_default(),
                    false => &mut may.fields,
                };
                fields.extend(changed(before, after));
                may.resets |= becomes_reset(before, after);
            }
        }
        // A packet grows into what is behind it, which means nothing.
        if may.grows {
            may.fields.insert("pad");
        }
        // Who does not say that it edits may change what no checksum of TCP covers.
        let uncovered = ["ip.tos", "ip.checksum"];
        may.fields
            .retain(|name| module.flags.edits || uncovered.contains(name));
        may.carries = may.carries.filter(|_| module.flags.edits);
        may
    }

    /// Whether it edits packets.
    pub(crate) fn edits(&self) -> bool {
        !self.fields.is_empty()
    }

    /// Whether it makes carriers of packets with payload.
    pub(crate) fn carries(&self) -> bool {
        self.carries.is_some()
    }

    /// Whether it does its work on packets.
    pub(crate) fn matches(&self) -> bool {
        self.matches
    }

    /// Whether it drops packets.
    pub(crate) fn drops(&self) -> bool {
        self.verdicts.contains(&Verdict::Drop)
    }

    /// Whether packets may have been counted by a reason: those of the parser, and those that the
    /// module's rows have. The others cannot be.
    pub(crate) fn counts(&self, reason: &str) -> bool {
        !matches!(reason, "tail_call" | "handover" | "map_full" | "write")
            || self.reasons.contains(reason)
    }

    fn ends(&self, verdict: Ended) -> bool {
        let any = |of: &[Verdict]| of.iter().any(|v| self.verdicts.contains(v));
        match verdict {
            Ended::Pass => any(&[Verdict::Pass, Verdict::Accept]),
            Ended::Drop => any(&[Verdict::Drop]),
            // XDP_TX, XDP_REDIRECT and TC_ACT_REDIRECT.
            Ended::Other(3 | 4 | 7) => any(&[Verdict::Redirect]),
            Ended::Other(_) => false,
        }
    }
}

/// A packet that went through a module, with its mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'p> {
    pub(crate) framing: Framing,
    pub(crate) before: (&'p [u8], u32),
    pub(crate) after: (&'p [u8], u32),
    pub(crate) verdict: Ended,
}

/// Whether a packet with payload became one that carries an option.
pub(crate) fn is_carrier(framing: Framing, before: &[u8], after: &[u8]) -> bool {
    match (layout(before, framing), layout(after, framing)) {
        (Some(b), Some(a)) => becomes_carrier((before, &b), (after, &a)),
        _ => false,
    }
}

/// What is wrong with it; nothing, as a rule.
pub(crate) fn faults(may: &May, run: &Run<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    if !may.ends(run.verdict) {
        faults.push(format!("verdict {:?}", run.verdict));
    }
    if run.before.1 != run.after.1 && !may.mark {
        faults.push(format!(
            "mark {:#x} becomes {:#x}",
            run.before.1, run.after.1
        ));
    }
    let (before, after) = (run.before.0, run.after.0);
    if before == after {
        return faults;
    }
    match (layout(before, run.framing), layout(after, run.framing)) {
        (None, _) => faults.push("a packet without a whole TCP header was changed".into()),
        (_, None) => faults.push("is no TCP packet any more".into()),
        (Some(b), Some(a)) if answers(run.verdict, (before, &b), (after, &a)) => {
            answered((before, &b), (after, &a), &mut faults);
        }
        (Some(b), Some(a)) => edited(may, (before, &b), (after, &a), &mut faults),
    }
    faults
}

/// A packet that goes back to its sender is another packet, not an edited one.
fn answers(verdict: Ended, before: (&[u8], &Layout), after: (&[u8], &Layout)) -> bool {
    let swapped = |(bytes, l): (&[u8], &Layout)| match l.version {
        4 => [&bytes[l.ip + 16..l.ip + 20], &bytes[l.ip + 12..l.ip + 16]].concat(),
        _ => [&bytes[l.ip + 24..l.ip + 40], &bytes[l.ip + 8..l.ip + 24]].concat(),
    };
    let addresses = |(bytes, l): (&[u8], &Layout)| match l.version {
        4 => bytes[l.ip + 12..l.ip + 20].to_vec(),
        _ => bytes[l.ip + 8..l.ip + 40].to_vec(),
    };
    matches!(verdict, Ended::Other(_)) && addresses(after) == swapped(before)
}

/// It is a RST, right, with no more than it needs; a RST has no answer (RFC 9293, 3.5.2).
fn answered(before: (&[u8], &Layout), after: (&[u8], &Layout), faults: &mut Vec<String>) {
    let (bytes, l) = after;
    for (what, is) in [
        ("is no RST", flags(bytes, l) & RST != 0),
        ("is to a RST", flags(before.0, before.1) & RST == 0),
        ("has payload", l.payload == l.pad),
        (
            "has more options than MP_TCPRST",
            l.payload - l.tcp <= RST_LEN || bytes.len() <= before.0.len(),
        ),
        ("has another length than it says", l.ip_end == bytes.len()),
        (
            "has a wrong checksum",
            ip_sum(after) == 0 && tcp_sum(after) == 0,
        ),
        ("is of a wrong checksum", may_become_reset(before)),
        (
            "has bad options",
            options(&bytes[l.tcp + 20..l.payload]).is_some(),
        ),
    ] {
        if !is {
            faults.push(format!("the answer {what}"));
        }
    }
}

fn edited(may: &May, before: (&[u8], &Layout), after: (&[u8], &Layout), faults: &mut Vec<String>) {
    let reset = may.resets && becomes_reset(before, after);
    let carrier = may.carries.as_ref();
    let carrier = carrier.filter(|_| becomes_carrier(before, after));
    // Both are written anew, with another length and a right checksum.
    let anew = reset || carrier.is_some();
    let names = changed(before, after);
    let fields = carrier.unwrap_or(&may.fields);
    for name in names.iter().filter(|name| !fields.contains(*name)) {
        faults.push(format!("no row of its fixtures changes {name}, this does"));
    }
    // RFC 2385 and RFC 5925 sign the TCP header.
    let signed = |area: &[u8]| {
        let found = options(area).unwrap_or_default();
        found.iter().any(|o| matches!(o[0], 19 | 29))
    };
    let tcp = |name: &&str| name.starts_with("tcp.");
    if signed(&before.0[before.1.tcp + 20..before.1.payload]) && names.iter().any(tcp) {
        faults.push("a signed TCP header is edited".into());
    }
    let window = |(bytes, l): (&[u8], &Layout)| [bytes[l.tcp + 14], bytes[l.tcp + 15]];
    if window(after) > window(before) && !reset {
        faults.push("the receive window is raised".into());
    }
    let payload = |(bytes, l)| payload(bytes, l);
    match anew {
        true if !payload(after).is_empty() => faults.push("a RST with payload".into()),
        false if payload(before) != payload(after) => faults.push("payload is touched".into()),
        _ => {}
    }
    if carrier.is_some() {
        carried(before, after, faults);
    }

    let (long, short) = (before.0.len(), after.0.len());
    if short > long && !may.grows || short < long && !may.shrinks {
        faults.push(format!("{long} bytes become {short}"));
    }
    if short > long && short - after.1.ip > MTU {
        faults.push(format!("grows to {} bytes of IP", short - after.1.ip));
    }
    // How many bytes of the frame are none of the IP packet; less than none where it was cut.
    let over = |(bytes, l): (&[u8], &Layout)| bytes.len() as i64 - l.ip_end as i64;
    if over(before) != over(after) && !(anew && over(after) == 0) {
        faults.push(format!(
            "frame less IP packet: {} becomes {}",
            over(before),
            over(after)
        ));
    }

    let sums = [("IPv4 header", ip_sum(before), ip_sum(after), reset)];
    let whole = before.1.ip_end <= before.0.len() && !before.1.fragment;
    // Of what is not there, nobody knows the sum.
    let tcp = (whole || !reset).then(|| ("TCP", tcp_sum(before), tcp_sum(after), anew));
    for (what, before, after, anew) in sums.into_iter().chain(tcp) {
        // What is written anew, as a whole, is right.
        if after != if anew { 0 } else { before } {
            faults.push(format!(
                "checksum of {what}: wrong by {before:#06x}, then by {after:#06x}"
            ));
        }
    }

    if anew && !may_become_reset(before) {
        let what = if reset { "a RST" } else { "an ACK" };
        faults.push(format!("{what} of a packet whose checksum is wrong"));
    }

    let read = |(bytes, l): (&[u8], &Layout)| options(&bytes[l.tcp + 20..l.payload]).is_some();
    if read(before) && !read(after) {
        faults.push("TCP options contradict themselves".into());
    }
}

/// What carries an option in the place of payload does nothing but acknowledge, and what it was made
/// of did no more than that and bring data.
fn carried(before: (&[u8], &Layout), after: (&[u8], &Layout), faults: &mut Vec<String>) {
    let (was, is) = (flags(before.0, before.1), flags(after.0, after.1));
    for (what, is) in [
        ("is no ACK", is & ACK != 0),
        ("has flags beside ACK and ECE", is & !(ACK | ECE) == 0),
        ("has flags that were not there", is & !was == 0),
        ("is of SYN, FIN, RST or URG", was & CONTROL == 0),
        ("is of a fragment", !before.1.fragment),
        (
            "is of a packet that was cut",
            before.1.ip_end <= before.0.len(),
        ),
    ] {
        if !is {
            faults.push(format!("the carrier {what}"));
        }
    }
}

/// Sum of all bytes that a checksum covers, with the checksum itself; without an error, a constant.
fn sum(bytes: &[u8]) -> u16 {
    !csum::of(bytes) % 0xffff
}

fn ip_sum((bytes, l): (&[u8], &Layout)) -> u16 {
    match l.version {
        4 => sum(&bytes[l.ip..l.tcp]),
        _ => 0,
    }
}

/// A RST has a right checksum, so what it is made of must: or one that is still to be completed.
fn may_become_reset((bytes, l): (&[u8], &Layout)) -> bool {
    let check = u16::from_be_bytes([bytes[l.tcp + 16], bytes[l.tcp + 17]]);
    l.ip_end <= bytes.len() && tcp_sum((bytes, l)) == 0
        || check == !csum::of(&pseudo_header((bytes, l)))
}

fn pseudo_header((bytes, l): (&[u8], &Layout)) -> Vec<u8> {
    let addresses = match l.version {
        4 => &bytes[l.ip + 12..l.ip + 20],
        _ => &bytes[l.ip + 8..l.ip + 40],
    };
    let mut header = addresses.to_vec();
    header.extend(((l.ip_end - l.tcp) as u32).to_be_bytes());
    header.extend([0, 6]);
    header
}

/// As far as the packet is there: what is not is not changed either.
fn tcp_sum((bytes, l): (&[u8], &Layout)) -> u16 {
    let mut covered = pseudo_header((bytes, l));
    covered.extend(&bytes[l.tcp..l.pad]);
    sum(&covered)
}
