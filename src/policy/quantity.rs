//! Quantities, ports and addresses as people write them.
//!
//! The readers take a JSON value and give what it says in the unit of the
//! data plane; the writers are their inverses and choose the largest unit that keeps
//! the quantity exact. Decimal fractions are exact: `"1.5Gbit"` is 1,500,000,000
//! bit/s, and `"0.5B"` is an error, not zero.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use serde_json::Value as Plain;

use super::diagnostic::Diagnostic;
use super::diagnostic::nearest;
use super::diagnostic::quoted;
use super::json::Json;
use super::json::Value;

/// A kind of quantities: a decimal number with a unit behind it.
pub(crate) struct Kind {
    /// With an example, for "expected …".
    expected: &'static str,
    /// For "not a whole number of …".
    base: &'static str,
    /// Units, ascending, and how much of the base each is.
    units: &'static [(&'static str, u64)],
    /// Units that other programs understand in several ways, and the one that was
    /// probably meant.
    meant: &'static [(&'static str, &'static str)],
    /// A number without unit counts the base.
    bare: bool,
}

#[cfg(test)]
impl Kind {
    /// The names of the units, ascending.
    pub(crate) fn units(&self) -> impl Iterator<Item = &'static str> {
        self.units.iter().map(|(name, _)| *name)
    }
}

/// How bytes are written.
pub(crate) const BYTES: Kind = Kind {
    expected: "bytes such as \"64KiB\"",
    base: "bytes",
    units: &[
        ("B", 1),
        ("kB", 1_000),
        ("KB", 1_000),
        ("KiB", 1 << 10),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
        ("TB", 1_000_000_000_000),
        ("TiB", 1 << 40),
    ],
    meant: &[
        ("k", "KiB"),
        ("ki", "KiB"),
        ("m", "MiB"),
        ("mi", "MiB"),
        ("g", "GiB"),
        ("gi", "GiB"),
    ],
    bare: true,
};

/// How rates are written.
pub(crate) const RATE: Kind = Kind {
    expected: "a rate such as \"20Mbit\"",
    base: "bits per second",
    units: &[
        ("bit", 1),
        ("kbit", 1_000),
        ("Kbit", 1_000),
        ("Kibit", 1 << 10),
        ("Mbit", 1_000_000),
        ("Mibit", 1 << 20),
        ("Gbit", 1_000_000_000),
        ("Gibit", 1 << 30),
        ("Tbit", 1_000_000_000_000),
        ("Tibit", 1 << 40),
    ],
    meant: &[
        ("bps", "bit"),
        ("bit/s", "bit"),
        ("k", "kbit"),
        ("kbps", "kbit"),
        ("kbit/s", "kbit"),
        ("kb/s", "kbit"),
        ("m", "Mbit"),
        ("mb", "Mbit"),
        ("mbps", "Mbit"),
        ("mbit/s", "Mbit"),
        ("mb/s", "Mbit"),
        ("g", "Gbit"),
        ("gb", "Gbit"),
        ("gbps", "Gbit"),
        ("gbit/s", "Gbit"),
        ("gb/s", "Gbit"),
    ],
    bare: true,
};

/// How times are written.
pub(crate) const TIME: Kind = Kind {
    expected: "a time such as \"100ms\"",
    base: "nanoseconds",
    units: &[
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
    ],
    meant: &[
        ("µs", "us"),
        ("sec", "s"),
        ("secs", "s"),
        ("min", "m"),
        ("mins", "m"),
        ("hours", "h"),
    ],
    bare: false,
};

/// Bytes: a number, or one of `B kB KB MB GB TB` (powers of 1000) or
/// `KiB MiB GiB TiB` (powers of 1024) behind a decimal number.
///
/// `"64K"` is refused, because programs do not agree on it.
///
/// # Errors
///
/// Anything else, and what is no whole number of bytes or does not fit in 64 bits.
pub fn bytes(json: &Json) -> Result<u64, Diagnostic> {
    quantity(json, &BYTES)
}

/// A rate in bit/s: a number, or one of `bit kbit Kbit Mbit Gbit Tbit` (powers of
/// 1000) or `Kibit Mibit Gibit Tibit` (powers of 1024) behind a decimal number, as `tc` prints them.
///
/// `"20Mbps"` is refused: bytes to `tc`, bits to most people.
///
/// # Errors
///
/// Anything else, and what is no whole number of bit/s or does not fit in 64 bits.
pub fn rate(json: &Json) -> Result<u64, Diagnostic> {
    quantity(json, &RATE)
}

/// A time in nanoseconds: one of `ns us ms s m h d` behind a decimal number, or 0.
///
/// # Errors
///
/// Anything else, and what is finer than a nanosecond or does not fit in 64 bits.
pub fn time(json: &Json) -> Result<u64, Diagnostic> {
    quantity(json, &TIME)
}

fn quantity(json: &Json, kind: &Kind) -> Result<u64, Diagnostic> {
    let wrong = || Diagnostic::expected(&json.at, kind.expected, json.found());
    match &json.value {
        Value::Number(number) => match whole(number) {
            Some(value) if kind.bare || value == 0 => Ok(value),
            Some(_) => Err(wrong_unit(json, kind)),
            None => Err(wrong()),
        },
        Value::String(text) => {
            let end = text
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(text.len());
            let (digits, unit) = text.split_at(end);
            let decimal = Decimal::parse(digits).ok_or_else(wrong)?;
            let factor = match kind.units.iter().find(|(name, _)| *name == unit) {
                Some((_, factor)) => *factor,
                None if unit.is_empty() && (kind.bare || decimal.mantissa == 0) => 1,
                None if unit.is_empty() => return Err(wrong_unit(json, kind)),
                None => {
                    let meant = meant(unit, kind).map(|unit| format!("{digits}{unit}"));
                    return Err(wrong().suggest(meant));
                }
            };
            decimal.times(factor).map_err(|error| {
                let text = quoted(text);
                let message = match error {
                    Inexact::Fraction => format!("{text} is not a whole number of {}", kind.base),
                    Inexact::TooLarge => {
                        format!("{text} is more than {} {}", u64::MAX, kind.base)
                    }
                };
                Diagnostic::new(&json.at, message)
            })
        }
        _ => Err(wrong()),
    }
}

fn wrong_unit(json: &Json, kind: &Kind) -> Diagnostic {
    let found = format!("{} without a unit", json.found());
    Diagnostic::expected(&json.at, kind.expected, found)
}

fn meant(unit: &str, kind: &Kind) -> Option<&'static str> {
    let unit = unit.trim();
    let lower = unit.to_lowercase();
    let meant = kind
        .meant
        .iter()
        .find(|(name, _)| *name == lower)
        .map(|(_, meant)| *meant);
    let units = || kind.units.iter().map(|(name, _)| *name);
    meant
        .or_else(|| units().find(|name| name.to_lowercase() == lower))
        .or_else(|| {
            if unit.is_ascii() {
                nearest(unit, units())
            } else {
                None
            }
        })
}

/// A JSON number as unsigned integer, if it is one: 1e3 is.
fn whole(number: &serde_json::Number) -> Option<u64> {
    number.as_u64().or_else(|| {
        let value = number.as_f64()?;
        // Beyond 2^53 a float no longer says which integer was meant.
        let exact = value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value);
        exact.then_some(value as u64)
    })
}

/// A decimal number, exact.
#[derive(Clone, Copy)]
struct Decimal {
    mantissa: u128,
    /// Digits behind the point.
    scale: u32,
}

enum Inexact {
    Fraction,
    TooLarge,
}

impl Decimal {
    /// Digits, and perhaps a point with digits on both sides.
    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, fraction),
            None => (text, "0"),
        };
        let is_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        // 36 digits fit in 128 bits, and are more than any quantity here has.
        if !is_digits(whole) || !is_digits(fraction) || text.len() > 36 {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let mantissa = format!("{whole}{fraction}").parse().ok()?;
        Some(Self {
            mantissa,
            scale: u32::try_from(fraction.len()).ok()?,
        })
    }

    fn times(self, factor: u64) -> Result<u64, Inexact> {
        let product = self
            .mantissa
            .checked_mul(u128::from(factor))
            .ok_or(Inexact::TooLarge)?;
        let divisor = 10u128.checked_pow(self.scale).ok_or(Inexact::Fraction)?;
        let value = u64::try_from(product / divisor).map_err(|_| Inexact::TooLarge)?;
        if product % divisor == 0 {
            Ok(value)
        } else {
            Err(Inexact::Fraction)
        }
    }
}

/// Bytes with the largest binary unit that keeps them exact.
pub fn show_bytes(bytes: u64) -> Plain {
    show(
        bytes,
        &[
            (1 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ],
    )
    .map_or(Plain::from(bytes), Plain::from)
}

/// A rate with the largest unit that keeps it exact.
pub fn show_rate(rate: u64) -> Plain {
    const UNITS: [(u64, &str); 5] = [
        (1_000_000_000_000, "Tbit"),
        (1_000_000_000, "Gbit"),
        (1_000_000, "Mbit"),
        (1_000, "kbit"),
        (1, "bit"),
    ];
    show(rate, &UNITS).map_or(Plain::from(rate), Plain::from)
}

/// A time with the largest unit that keeps it exact.
pub fn show_time(nanoseconds: u64) -> Plain {
    let mut units: Vec<(u64, &str)> = TIME.units.iter().map(|(name, f)| (*f, *name)).collect();
    units.reverse();
    Plain::from(show(nanoseconds, &units).unwrap_or_else(|| "0s".to_owned()))
}

fn show(value: u64, units: &[(u64, &str)]) -> Option<String> {
    let (factor, unit) = units
        .iter()
        .find(|(f, _)| value >= *f && value.is_multiple_of(*f))?;
    Some(format!("{}{unit}", value / factor))
}

/// What the ratio 1 would be: the representation is the ratio times this, at most one less.
const ONE: f64 = 4_294_967_296.0;

const RATIO: &str = "a ratio such as 0.1, \"10%\" or \"1/16\"";

/// A ratio times 2^32, rounded, at most 2^32 - 1: a number from 0 to 1, `"10%"` or `"1/16"`.
///
/// # Errors
///
/// Anything else, and what is not between 0 and 1.
pub fn ratio(json: &Json) -> Result<u32, Diagnostic> {
    let wrong = || Diagnostic::expected(&json.at, RATIO, json.found());
    let ratio = match &json.value {
        Value::Number(number) => number.as_f64().ok_or_else(wrong)?,
        Value::String(text) => {
            let decimal = |s: &str| match Decimal::parse(s) {
                Some(_) => s.parse::<f64>().map_err(|_| wrong()),
                None => Err(wrong()),
            };
            if let Some(percent) = text.strip_suffix('%') {
                decimal(percent)? / 100.0
            } else if let Some((part, of)) = text.split_once('/') {
                let of = decimal(of)?;
                if of == 0.0 {
                    return Err(wrong());
                }
                decimal(part)? / of
            } else {
                decimal(text)?
            }
        }
        _ => return Err(wrong()),
    };
    if !(0.0..=1.0).contains(&ratio) {
        let found = json.found();
        return Err(Diagnostic::expected(
            &json.at,
            "a ratio between 0 and 1",
            found,
        ));
    }
    Ok(scale_ratio(ratio))
}

fn scale_ratio(ratio: f64) -> u32 {
    // A cast from a float saturates.
    (ratio * ONE).round() as u32
}

/// A ratio as the shortest decimal number that is rounded to it.
pub fn show_ratio(scaled: u32) -> Plain {
    if scaled == u32::MAX {
        return Plain::from(1);
    }
    if scaled == 0 {
        return Plain::from(0);
    }
    let ratio = f64::from(scaled) / ONE;
    let short = (1..=10)
        .filter_map(|digits| format!("{ratio:.digits$}").parse::<f64>().ok())
        .find(|short| *short < 1.0 && scale_ratio(*short) == scaled);
    Plain::from(short.unwrap_or(ratio))
}

/// A port: a number or a decimal string.
///
/// # Errors
///
/// Anything else, and what is more than 65535.
pub fn port(json: &Json) -> Result<u16, Diagnostic> {
    let port = match &json.value {
        Value::Number(number) => whole(number).and_then(|n| u16::try_from(n).ok()),
        Value::String(text) => parse_port(text),
        _ => None,
    };
    port.ok_or_else(|| Diagnostic::expected(&json.at, "a port from 0 to 65535", json.found()))
}

fn parse_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

const PORTS: &str = "a port or a range such as \"8000-8010\"";

/// First and last port of a range, both included: a port, or `"8000-8010"`.
///
/// # Errors
///
/// Anything else, and a range whose end is before its beginning.
pub fn port_range(json: &Json) -> Result<(u16, u16), Diagnostic> {
    let wrong = || Diagnostic::expected(&json.at, PORTS, json.found());
    match &json.value {
        Value::Number(_) => port(json).map(|p| (p, p)).map_err(|_| wrong()),
        Value::String(text) => {
            let Some((first, last)) = text.split_once('-') else {
                let range = text
                    .split_once(':')
                    .map(|(first, last)| format!("{first}-{last}"));
                let range = range.filter(|r| r.bytes().all(|b| b.is_ascii_digit() || b == b'-'));
                return parse_port(text)
                    .map(|p| (p, p))
                    .ok_or_else(|| wrong().suggest(range));
            };
            match (parse_port(first), parse_port(last)) {
                (Some(first), Some(last)) if first <= last => Ok((first, last)),
                (Some(first), Some(last)) => {
                    let message = format!("the range {} ends before it begins", quoted(text));
                    Err(Diagnostic::new(&json.at, message).suggest(Some(format!("{last}-{first}"))))
                }
                _ => Err(wrong()),
            }
        }
        _ => Err(wrong()),
    }
}

/// A port, or a range as `"8000-8010"`.
pub fn show_port_range(first: u16, last: u16) -> Plain {
    if first == last {
        Plain::from(first)
    } else {
        Plain::from(format!("{first}-{last}"))
    }
}

/// A token (RFC 8684, 2.2): a number or `"0x1a2b3c4d"`.
///
/// # Errors
///
/// Anything else, and what does not fit in 32 bits.
pub fn token(json: &Json) -> Result<u32, Diagnostic> {
    let token = unsigned(json).and_then(|token| u32::try_from(token).ok());
    token.ok_or_else(|| {
        Diagnostic::expected(&json.at, "a token such as \"0x1a2b3c4d\"", json.found())
    })
}

/// A token as `"0x1a2b3c4d"`.
pub fn show_token(token: u32) -> Plain {
    Plain::from(format!("0x{token:08x}"))
}

/// A number or `"0x…"`.
fn unsigned(json: &Json) -> Option<u64> {
    match &json.value {
        Value::Number(number) => whole(number),
        Value::String(text) => {
            let digits = text
                .strip_prefix("0x")
                .or_else(|| text.strip_prefix("0X"))?;
            let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
            if plain {
                u64::from_str_radix(digits, 16).ok()
            } else {
                None
            }
        }
        _ => None,
    }
}

/// An unsigned integer of `size` bytes: a number or `"0x…"`.
///
/// # Errors
///
/// Anything else, and what does not fit.
pub fn uint(json: &Json, size: usize) -> Result<u64, Diagnostic> {
    let largest = largest_uint(size);
    unsigned(json)
        .filter(|value| *value <= largest)
        .ok_or_else(|| {
            let expected = format!("a number from 0 to {largest}");
            Diagnostic::expected(&json.at, expected, json.found())
        })
}

/// The largest unsigned integer of `size` bytes.
pub fn largest_uint(size: usize) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (8 * size)) - 1
    }
}

/// A signed integer of `size` bytes: a number.
///
/// # Errors
///
/// Anything else, and what does not fit.
pub fn int(json: &Json, size: usize) -> Result<i64, Diagnostic> {
    let largest = (largest_uint(size) / 2) as i64;
    let least = -largest - 1;
    let value = match &json.value {
        Value::Number(number) => number
            .as_i64()
            .or_else(|| whole(number).and_then(|n| i64::try_from(n).ok())),
        _ => None,
    };
    value
        .filter(|value| (least..=largest).contains(value))
        .ok_or_else(|| {
            let expected = format!("a number from {least} to {largest}");
            Diagnostic::expected(&json.at, expected, json.found())
        })
}

const ADDR: &str = "an address such as \"10.0.0.1\" or \"fc00::1\"";

/// An address; IPv4 comes as `::ffff:a.b.c.d`, in which form it may also be written.
///
/// # Errors
///
/// Anything else, such as one with a mask or a scope.
pub fn addr(json: &Json) -> Result<Ipv6Addr, Diagnostic> {
    let wrong = || Diagnostic::expected(&json.at, ADDR, json.found());
    let text = json.as_str().ok_or_else(wrong)?;
    match parse_addr(text) {
        Some(addr) => Ok(addr),
        None => {
            let bare = text
                .split(['/', '%'])
                .next()
                .filter(|s| parse_addr(s).is_some());
            Err(wrong().suggest(bare.map(str::to_owned)))
        }
    }
}

fn parse_addr(text: &str) -> Option<Ipv6Addr> {
    match text.parse().ok()? {
        IpAddr::V4(v4) => Some(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => Some(v6),
    }
}

/// An address, IPv4 in its own form.
pub fn show_addr(addr: Ipv6Addr) -> Plain {
    Plain::from(addr_text(addr))
}

fn addr_text(addr: Ipv6Addr) -> String {
    match addr.to_ipv4_mapped() {
        Some(v4) => v4.to_string(),
        None => addr.to_string(),
    }
}

/// An address and how many of its leading bits count; IPv4 comes as
/// `::ffff:a.b.c.d` with 96 more bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address, zero behind the mask.
    pub addr: Ipv6Addr,
    /// 0 to 128.
    pub bits: u8,
}

impl Prefix {
    /// A prefix of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.bits >= 96 && self.addr.to_ipv4_mapped().is_some()
    }

    /// The mask.
    pub fn mask(&self) -> Ipv6Addr {
        let mask = match self.bits {
            0 => 0,
            bits => u128::MAX << (128 - u32::from(bits.min(128))),
        };
        Ipv6Addr::from_bits(mask)
    }
}

const PREFIX: &str = "a prefix such as \"10.0.0.0/8\" or \"fc00::/7\"";

/// A prefix; an address alone stands for itself.
///
/// # Errors
///
/// Anything else; bits of the host that are set, with the prefix that was probably meant.
pub fn prefix(json: &Json) -> Result<Prefix, Diagnostic> {
    let wrong = || Diagnostic::expected(&json.at, PREFIX, json.found());
    let text = json.as_str().ok_or_else(wrong)?;
    let (addr_part, bits_part) = match text.split_once('/') {
        Some((addr, bits)) => (addr, Some(bits)),
        None => (text, None),
    };
    let ip: IpAddr = addr_part.parse().map_err(|_| wrong())?;
    let longest: u8 = if ip.is_ipv4() { 32 } else { 128 };
    let bits = match bits_part {
        None => longest,
        Some(bits) => {
            let plain = bits.bytes().all(|b| b.is_ascii_digit());
            let number = if plain { bits.parse::<u8>().ok() } else { None };
            let Some(bits) = number.filter(|bits| *bits <= longest) else {
                let expected = format!("a length from 0 to {longest} behind the `/`");
                let netmask = bits.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
                let netmask =
                    netmask.filter(|m| ip.is_ipv4() && m.count_ones() == m.leading_ones());
                let meant = netmask.map(|m| format!("{addr_part}/{}", m.count_ones()));
                return Err(Diagnostic::expected(&json.at, expected, json.found()).suggest(meant));
            };
            bits
        }
    };
    let (addr, bits) = match ip {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), bits + 96),
        IpAddr::V6(v6) => (v6, bits),
    };
    let mut prefix = Prefix { addr, bits };
    prefix.addr = Ipv6Addr::from_bits(addr.to_bits() & prefix.mask().to_bits());
    if prefix.addr != addr {
        let meant = prefix_text(prefix);
        let message = format!(
            "{} has bits of the host set: the prefix is {meant}",
            quoted(text)
        );
        return Err(Diagnostic::new(&json.at, message).suggest(Some(meant)));
    }
    Ok(prefix)
}

/// A prefix as `"10.0.0.0/8"`.
pub fn show_prefix(prefix: Prefix) -> Plain {
    Plain::from(prefix_text(prefix))
}

fn prefix_text(prefix: Prefix) -> String {
    if prefix.is_ipv4() {
        format!("{}/{}", addr_text(prefix.addr), prefix.bits - 96)
    } else {
        format!("{}/{}", prefix.addr, prefix.bits)
    }
}

/// Addresses and ports of a subflow, in the direction of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subflow {
    /// Source address, IPv4 mapped.
    pub saddr: Ipv6Addr,
    /// Destination address, IPv4 mapped.
    pub daddr: Ipv6Addr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

const SUBFLOW: &str =
    "a subflow such as \"10.0.0.1:40000-10.0.0.2:443\" or \"[fc00::1]:40000-[fc00::2]:443\"";

/// A subflow: source and destination, each with its port, joined by `-`.
///
/// # Errors
///
/// Anything else, and addresses of two families.
pub fn subflow(json: &Json) -> Result<Subflow, Diagnostic> {
    let wrong = || Diagnostic::expected(&json.at, SUBFLOW, json.found());
    let (source, destination) = json
        .as_str()
        .and_then(|s| s.split_once('-'))
        .ok_or_else(wrong)?;
    let end = |text: &str| -> Result<(Ipv6Addr, u16), Diagnostic> {
        match text.parse().map_err(|_| wrong())? {
            SocketAddr::V4(v4) => Ok((v4.ip().to_ipv6_mapped(), v4.port())),
            SocketAddr::V6(v6) if v6.scope_id() == 0 => Ok((*v6.ip(), v6.port())),
            SocketAddr::V6(_) => Err(wrong()),
        }
    };
    let (saddr, sport) = end(source)?;
    let (daddr, dport) = end(destination)?;
    if saddr.to_ipv4_mapped().is_some() != daddr.to_ipv4_mapped().is_some() {
        let message = "source and destination of a subflow are of one family";
        return Err(Diagnostic::new(&json.at, message));
    }
    Ok(Subflow {
        saddr,
        daddr,
        sport,
        dport,
    })
}

/// A subflow in the form in which it is read.
pub fn show_subflow(subflow: Subflow) -> Plain {
    let end = |addr: Ipv6Addr, port: u16| match addr.to_ipv4_mapped() {
        Some(v4) => format!("{v4}:{port}"),
        None => format!("[{addr}]:{port}"),
    };
    let source = end(subflow.saddr, subflow.sport);
    Plain::from(format!("{source}-{}", end(subflow.daddr, subflow.dport)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Place;

    fn json(text: &str) -> Json {
        crate::policy::read("p", text.as_bytes()).unwrap().0
    }

    fn plain(value: &Plain) -> Json {
        Json::from_value(value, &Place::root("p"))
    }

    /// Texts of JSON, and what they are or what the message says.
    fn check<T: PartialEq + std::fmt::Debug>(
        read: impl Fn(&Json) -> Result<T, Diagnostic>,
        cases: Vec<(&str, Result<T, &str>)>,
    ) {
        for (text, expected) in cases {
            let found = read(&json(text)).map_err(|error| {
                let text = error.to_string();
                text.strip_prefix("p:1:1: ").unwrap_or_default().to_owned()
            });
            assert_eq!(found, expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn bytes_as_people_write_them() {
        check(
            bytes,
            vec![
                ("0", Ok(0)),
                ("1e3", Ok(1000)),
                ("18446744073709551615", Ok(u64::MAX)),
                ("\"7\"", Ok(7)),
                ("\"7B\"", Ok(7)),
                ("\"64KiB\"", Ok(65536)),
                ("\"64KB\"", Ok(64000)),
                ("\"64kB\"", Ok(64000)),
                ("\"1.5MiB\"", Ok(1_572_864)),
                ("\"1.50MB\"", Ok(1_500_000)),
                ("\"2GiB\"", Ok(2 << 30)),
                (
                    "\"16777215.99999999999909TiB\"",
                    Err("\"16777215.99999999999909TiB\" is not a whole number of bytes"),
                ),
                (
                    "\"16777216TiB\"",
                    Err("\"16777216TiB\" is more than 18446744073709551615 bytes"),
                ),
                ("\"0.5B\"", Err("\"0.5B\" is not a whole number of bytes")),
                (
                    "\"64kk\"",
                    Err("expected bytes such as \"64KiB\", found \"64kk\"; did you mean \"64kB\"?"),
                ),
                (
                    "\"64K\"",
                    Err("expected bytes such as \"64KiB\", found \"64K\"; did you mean \"64KiB\"?"),
                ),
                (
                    "\"64kib\"",
                    Err(
                        "expected bytes such as \"64KiB\", found \"64kib\"; did you mean \"64KiB\"?",
                    ),
                ),
                (
                    "\"64 KiB\"",
                    Err(
                        "expected bytes such as \"64KiB\", found \"64 KiB\"; did you mean \"64KiB\"?",
                    ),
                ),
                (
                    "\"64apples\"",
                    Err("expected bytes such as \"64KiB\", found \"64apples\""),
                ),
                (
                    "\"KiB\"",
                    Err("expected bytes such as \"64KiB\", found \"KiB\""),
                ),
                (
                    "\".5KiB\"",
                    Err("expected bytes such as \"64KiB\", found \".5KiB\""),
                ),
                (
                    "\"1.2.3KiB\"",
                    Err("expected bytes such as \"64KiB\", found \"1.2.3KiB\""),
                ),
                (
                    "\"-1\"",
                    Err("expected bytes such as \"64KiB\", found \"-1\""),
                ),
                ("\"\"", Err("expected bytes such as \"64KiB\", found \"\"")),
                ("-1", Err("expected bytes such as \"64KiB\", found -1")),
                ("1.5", Err("expected bytes such as \"64KiB\", found 1.5")),
                (
                    "1e300",
                    Err("expected bytes such as \"64KiB\", found 1e+300"),
                ),
                ("null", Err("expected bytes such as \"64KiB\", found null")),
                (
                    "\"99999999999999999999999999999999999999999\"",
                    Err(
                        "expected bytes such as \"64KiB\", found \"99999999999999999999999999999999999999999\"",
                    ),
                ),
            ],
        );
    }

    #[test]
    fn rates_as_tc_prints_them() {
        check(
            rate,
            vec![
                ("20000000", Ok(20_000_000)),
                ("\"20Mbit\"", Ok(20_000_000)),
                ("\"1.5Gbit\"", Ok(1_500_000_000)),
                ("\"100kbit\"", Ok(100_000)),
                ("\"100Kbit\"", Ok(100_000)),
                ("\"1Kibit\"", Ok(1024)),
                ("\"12bit\"", Ok(12)),
                (
                    "\"20Mbps\"",
                    Err(
                        "expected a rate such as \"20Mbit\", found \"20Mbps\"; did you mean \"20Mbit\"?",
                    ),
                ),
                (
                    "\"20mbit\"",
                    Err(
                        "expected a rate such as \"20Mbit\", found \"20mbit\"; did you mean \"20Mbit\"?",
                    ),
                ),
                (
                    "\"20Mbit/s\"",
                    Err(
                        "expected a rate such as \"20Mbit\", found \"20Mbit/s\"; did you mean \"20Mbit\"?",
                    ),
                ),
                (
                    "\"1.0001kbit\"",
                    Err("\"1.0001kbit\" is not a whole number of bits per second"),
                ),
            ],
        );
    }

    #[test]
    fn times_have_units() {
        check(
            time,
            vec![
                ("\"30ns\"", Ok(30)),
                ("\"250us\"", Ok(250_000)),
                ("\"100ms\"", Ok(100_000_000)),
                ("\"1.5s\"", Ok(1_500_000_000)),
                ("\"10m\"", Ok(600_000_000_000)),
                ("\"1h\"", Ok(3_600_000_000_000)),
                ("\"1d\"", Ok(86_400_000_000_000)),
                ("0", Ok(0)),
                ("\"0\"", Ok(0)),
                (
                    "5",
                    Err("expected a time such as \"100ms\", found 5 without a unit"),
                ),
                (
                    "\"5\"",
                    Err("expected a time such as \"100ms\", found \"5\" without a unit"),
                ),
                (
                    "\"0.5ns\"",
                    Err("\"0.5ns\" is not a whole number of nanoseconds"),
                ),
                (
                    "\"5µs\"",
                    Err("expected a time such as \"100ms\", found \"5µs\"; did you mean \"5us\"?"),
                ),
                (
                    "\"5min\"",
                    Err("expected a time such as \"100ms\", found \"5min\"; did you mean \"5m\"?"),
                ),
                (
                    "\"1000000d\"",
                    Err("\"1000000d\" is more than 18446744073709551615 nanoseconds"),
                ),
            ],
        );
    }

    #[test]
    fn ratios() {
        check(
            ratio,
            vec![
                ("0", Ok(0)),
                ("1", Ok(u32::MAX)),
                ("0.5", Ok(1 << 31)),
                ("0.1", Ok(429_496_730)),
                ("\"0.1\"", Ok(429_496_730)),
                ("\"10%\"", Ok(429_496_730)),
                ("\"100%\"", Ok(u32::MAX)),
                ("\"1/16\"", Ok(1 << 28)),
                (
                    "\"3/2\"",
                    Err("expected a ratio between 0 and 1, found \"3/2\""),
                ),
                ("1.01", Err("expected a ratio between 0 and 1, found 1.01")),
                ("-0.1", Err("expected a ratio between 0 and 1, found -0.1")),
                (
                    "\"1/0\"",
                    Err("expected a ratio such as 0.1, \"10%\" or \"1/16\", found \"1/0\""),
                ),
                (
                    "\"ten\"",
                    Err("expected a ratio such as 0.1, \"10%\" or \"1/16\", found \"ten\""),
                ),
                (
                    "\"inf\"",
                    Err("expected a ratio such as 0.1, \"10%\" or \"1/16\", found \"inf\""),
                ),
                (
                    "true",
                    Err("expected a ratio such as 0.1, \"10%\" or \"1/16\", found true"),
                ),
            ],
        );
        assert_eq!(show_ratio(429_496_730), Plain::from(0.1));
    }

    #[test]
    fn ports_and_tokens() {
        check(
            port_range,
            vec![
                ("22", Ok((22, 22))),
                ("\"22\"", Ok((22, 22))),
                ("\"8000-8010\"", Ok((8000, 8010))),
                ("\"0-65535\"", Ok((0, 65535))),
                (
                    "\"8010-8000\"",
                    Err(
                        "the range \"8010-8000\" ends before it begins; did you mean \"8000-8010\"?",
                    ),
                ),
                (
                    "\"8000:8010\"",
                    Err(
                        "expected a port or a range such as \"8000-8010\", found \"8000:8010\"; did you mean \"8000-8010\"?",
                    ),
                ),
                (
                    "\"https\"",
                    Err("expected a port or a range such as \"8000-8010\", found \"https\""),
                ),
                (
                    "\"1-65536\"",
                    Err("expected a port or a range such as \"8000-8010\", found \"1-65536\""),
                ),
                (
                    "\"+1\"",
                    Err("expected a port or a range such as \"8000-8010\", found \"+1\""),
                ),
                (
                    "\"-\"",
                    Err("expected a port or a range such as \"8000-8010\", found \"-\""),
                ),
                (
                    "65536",
                    Err("expected a port or a range such as \"8000-8010\", found 65536"),
                ),
            ],
        );
        check(
            port,
            vec![
                ("\"443\"", Ok(443)),
                ("\"\"", Err("expected a port from 0 to 65535, found \"\"")),
            ],
        );
        check(
            token,
            vec![
                ("1", Ok(1)),
                ("\"0x1a2b3c4d\"", Ok(0x1a2b_3c4d)),
                ("\"0X1A\"", Ok(0x1a)),
                (
                    "4294967296",
                    Err("expected a token such as \"0x1a2b3c4d\", found 4294967296"),
                ),
                (
                    "\"1a2b\"",
                    Err("expected a token such as \"0x1a2b3c4d\", found \"1a2b\""),
                ),
                (
                    "\"0x\"",
                    Err("expected a token such as \"0x1a2b3c4d\", found \"0x\""),
                ),
                (
                    "\"0x+1\"",
                    Err("expected a token such as \"0x1a2b3c4d\", found \"0x+1\""),
                ),
            ],
        );
    }

    #[test]
    fn addresses_and_prefixes() {
        let mapped = |text: &str| text.parse::<Ipv4Addr>().unwrap().to_ipv6_mapped();
        let scope = "expected an address such as \"10.0.0.1\" or \"fc00::1\", found \"fe80::1%eth0\"; did you mean \"fe80::1\"?";
        check(
            addr,
            vec![
                ("\"10.0.0.1\"", Ok(mapped("10.0.0.1"))),
                ("\"::ffff:10.0.0.1\"", Ok(mapped("10.0.0.1"))),
                ("\"::1\"", Ok(Ipv6Addr::LOCALHOST)),
                ("\"fe80::1%eth0\"", Err(scope)),
                (
                    "\"10.0.0.01\"",
                    Err(
                        "expected an address such as \"10.0.0.1\" or \"fc00::1\", found \"10.0.0.01\"",
                    ),
                ),
                (
                    "1",
                    Err("expected an address such as \"10.0.0.1\" or \"fc00::1\", found 1"),
                ),
            ],
        );
        let prefix_of = |addr: Ipv6Addr, bits: u8| Ok(Prefix { addr, bits });
        check(
            prefix,
            vec![
                ("\"10.0.0.0/8\"", prefix_of(mapped("10.0.0.0"), 104)),
                ("\"10.0.0.1\"", prefix_of(mapped("10.0.0.1"), 128)),
                ("\"0.0.0.0/0\"", prefix_of(mapped("0.0.0.0"), 96)),
                (
                    "\"::ffff:10.0.0.0/104\"",
                    prefix_of(mapped("10.0.0.0"), 104),
                ),
                ("\"::/0\"", prefix_of(Ipv6Addr::UNSPECIFIED, 0)),
                ("\"fc00::/7\"", prefix_of("fc00::".parse().unwrap(), 7)),
                (
                    "\"10.0.0.1/8\"",
                    Err(
                        "\"10.0.0.1/8\" has bits of the host set: the prefix is 10.0.0.0/8; did you mean \"10.0.0.0/8\"?",
                    ),
                ),
                (
                    "\"fc00::1/7\"",
                    Err(
                        "\"fc00::1/7\" has bits of the host set: the prefix is fc00::/7; did you mean \"fc00::/7\"?",
                    ),
                ),
                (
                    "\"10.0.0.0/33\"",
                    Err("expected a length from 0 to 32 behind the `/`, found \"10.0.0.0/33\""),
                ),
                (
                    "\"::/129\"",
                    Err("expected a length from 0 to 128 behind the `/`, found \"::/129\""),
                ),
                (
                    "\"::/\"",
                    Err("expected a length from 0 to 128 behind the `/`, found \"::/\""),
                ),
                (
                    "\"10.0.0.0/255.0.0.0\"",
                    Err(
                        "expected a length from 0 to 32 behind the `/`, found \"10.0.0.0/255.0.0.0\"; did you mean \"10.0.0.0/8\"?",
                    ),
                ),
                (
                    "\"10.0.0/8\"",
                    Err(
                        "expected a prefix such as \"10.0.0.0/8\" or \"fc00::/7\", found \"10.0.0/8\"",
                    ),
                ),
            ],
        );
        let wrong = "expected a subflow such as \"10.0.0.1:40000-10.0.0.2:443\" or \"[fc00::1]:40000-[fc00::2]:443\", found \"10.0.0.1-10.0.0.2\"";
        check(
            |json| subflow(json).map(|subflow| (subflow.sport, subflow.dport)),
            vec![
                ("\"10.0.0.1:1-10.0.0.2:2\"", Ok((1, 2))),
                ("\"[::1]:1-[::2]:2\"", Ok((1, 2))),
                ("\"10.0.0.1-10.0.0.2\"", Err(wrong)),
                (
                    "\"10.0.0.1:1-[::2]:2\"",
                    Err("source and destination of a subflow are of one family"),
                ),
            ],
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_shown_is_read(
            n in any::<u64>(), shift in 0..64u32, zeros in 0..19u32, half in any::<u128>(), bits in 0..=128u8
        ) {
            for n in [n, n >> shift, n << shift, (n >> shift).saturating_mul(10u64.pow(zeros))] {
                prop_assert_eq!(bytes(&plain(&show_bytes(n))).unwrap(), n);
                prop_assert_eq!(rate(&plain(&show_rate(n))).unwrap(), n);
                prop_assert_eq!(time(&plain(&show_time(n))).unwrap(), n);
                prop_assert_eq!(ratio(&plain(&show_ratio(n as u32))).unwrap(), n as u32);
                prop_assert_eq!(token(&plain(&show_token(n as u32))).unwrap(), n as u32);
            }
            for n in [half, half & 0xffff_ffff | 0xffff_0000_0000] {
                let mut prefix_of = Prefix { addr: Ipv6Addr::from_bits(n), bits };
                prefix_of.addr = Ipv6Addr::from_bits(n & prefix_of.mask().to_bits());
                prop_assert_eq!(prefix(&plain(&show_prefix(prefix_of))).unwrap(), prefix_of);
                prop_assert_eq!(addr(&plain(&show_addr(prefix_of.addr))).unwrap(), prefix_of.addr);
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let json = plain(&Plain::from(text));
            let _ = (bytes(&json), rate(&json), time(&json), ratio(&json), port_range(&json));
            let _ = (token(&json), addr(&json), prefix(&json), subflow(&json), int(&json, 4));
        }
    }
}
