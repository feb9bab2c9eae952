//! Hosts that have an address in either family, so that one description of a
//! packet or of parameters serves both.
//!
//! A host is named `a`, `b`, `c` or `d`, or by any IPv4 address; its IPv6
//! address is that of IPv4 in the low 32 bits of 2001:db8:1:2:3:4::/96. A
//! prefix of n bits is then one of 96 + n bits.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use serde_json::Value;

/// Family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip4,
    /// IPv6.
    Ip6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::Ip4, Family::Ip6];

    /// The word in fixtures.
    pub fn name(self) -> &'static str {
        match self {
            Family::Ip4 => "ip4",
            Family::Ip6 => "ip6",
        }
    }
}

const NAMED: [(&str, Ipv4Addr); 4] = [
    ("a", Ipv4Addr::new(10, 0, 0, 1)),
    ("b", Ipv4Addr::new(10, 0, 0, 2)),
    ("c", Ipv4Addr::new(10, 1, 0, 1)),
    ("d", Ipv4Addr::new(192, 0, 2, 130)),
];

/// The IPv6 address of the host that has this IPv4 address.
pub fn mapped(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, high, low)
}

/// Address of a host in a family: a name, an IPv4 address, or (IPv6 only) an IPv6 address.
pub fn resolve(host: &str, family: Family) -> Result<IpAddr, String> {
    let v4 = NAMED
        .iter()
        .find(|(name, _)| *name == host)
        .map(|(_, a)| *a);
    match (v4.or_else(|| host.parse().ok()), family) {
        (Some(v4), Family::Ip4) => Ok(v4.into()),
        (Some(v4), Family::Ip6) => Ok(mapped(v4).into()),
        (None, Family::Ip6) if host.parse::<Ipv6Addr>().is_ok() => {
            Ok(host.parse::<Ipv6Addr>().unwrap().into())
        }
        _ => Err(format!(
            "expected a host (a, b, c, d) or an address that {} has, found {host:?}",
            family.name()
        )),
    }
}

/// Replaces `"$a"`, `"$a/24"` and `"$a:1-$b:2"` in every string and key of `value` by the address,
/// prefix or subflow of these hosts in `family`.
pub fn substitute(value: &mut Value, family: Family) -> Result<(), String> {
    match value {
        Value::String(s) => {
            let Some(host) = s.strip_prefix('$') else {
                return Ok(());
            };
            if let Some((from, to)) = host.split_once("-$") {
                *s = format!("{}-{}", end(from, family)?, end(to, family)?);
                return Ok(());
            }
            *s = match host.split_once('/') {
                None => resolve(host, family)?.to_string(),
                Some((host, bits)) => {
                    let bits: u8 = bits
                        .parse()
                        .ok()
                        .filter(|n| *n <= 32)
                        .ok_or_else(|| format!("expected $host/0 to 32, found {s:?}"))?;
                    let more = if family == Family::Ip6 { 96 } else { 0 };
                    format!("{}/{}", resolve(host, family)?, bits + more)
                }
            };
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|v| substitute(v, family)),
        Value::Object(fields) => {
            for (key, mut value) in std::mem::take(fields) {
                let mut key = Value::String(key);
                substitute(&mut key, family)?;
                substitute(&mut value, family)?;
                fields.insert(key.as_str().unwrap_or_default().to_owned(), value);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// An end of a subflow: host and port.
fn end(text: &str, family: Family) -> Result<SocketAddr, String> {
    let (host, port) = text.split_once(':').ok_or("expected $host:port")?;
    let port = port.parse().map_err(|e| format!("{text}: {e}"))?;
    Ok(SocketAddr::new(resolve(host, family)?, port))
}
