//! Quantities as people write them in a lab file or on the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A rate in bits per second, written `"20Mbit"`.
///
/// Units are decimal: `bit`, `kbit`, `Mbit`, `Gbit`, without regard to case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("\"{text}\" is no rate: expected for example \"20Mbit\"");
        let (number, unit) = split_unit(text);
        let factor = match unit.to_ascii_lowercase().as_str() {
            "bit" => 1.0,
            "kbit" => 1e3,
            "mbit" => 1e6,
            "gbit" => 1e9,
            _ => return Err(problem()),
        };
        let number: f64 = number.parse().map_err(|_| problem())?;
        let bits = number * factor;
        if (1.0..=1e12).contains(&bits) {
            Ok(Self(bits.round() as u64))
        } else {
            Err(format!(
                "the rate \"{text}\" is not between 1bit and 1000Gbit"
            ))
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n % 1_000_000 == 0 => write!(out, "{}Mbit", n / 1_000_000),
            n if n % 1_000 == 0 => write!(out, "{}kbit", n / 1_000),
            n => write!(out, "{n}bit"),
        }
    }
}

/// A time, written `"10ms"`, `"1.5ms"` or `"2s 500ms"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = humantime::parse_duration(text) {
            return Ok(Self(time));
        }
        // humantime knows no fractions; a lab needs "0.5ms".
        let (number, unit) = split_unit(text);
        let nanos = match unit {
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            _ => {
                return Err(format!(
                    "\"{text}\" is no time: expected for example \"10ms\""
                ));
            }
        };
        match number.parse::<f64>() {
            Ok(number) if (0.0..1e6).contains(&number) => {
                Ok(Self(Duration::from_nanos((number * nanos).round() as u64)))
            }
            _ => Err(format!(
                "\"{text}\" is no time: expected for example \"10ms\""
            )),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(out)
    }
}

/// How much may wait in front of a bottleneck: `"64KiB"` or `"100packets"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum QueueLimit {
    /// At most this many bytes of Ethernet frames.
    Bytes(u64),
    /// At most this many Ethernet frames.
    Packets(u64),
}

impl FromStr for QueueLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || {
            format!(
                "\"{text}\" is no queue length: expected for example \"64KiB\" or \"100packets\""
            )
        };
        let (number, unit) = split_unit(text);
        match unit {
            "packets" | "packet" => number.parse().map(Self::Packets).map_err(|_| problem()),
            "" => Err(problem()),
            _ => Ok(Self::Bytes(Bytes::from_str(text).map_err(|_| problem())?.0)),
        }
    }
}

impl fmt::Display for QueueLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(out, "{bytes}B"),
            Self::Packets(packets) => write!(out, "{packets}packets"),
        }
    }
}

/// A number of bytes, written `"100KB"` (1000), `"64KiB"` (1024) or plain `"48"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        bytesize::ByteSize::from_str(text)
            .map(|size| Self(size.as_u64()))
            .map_err(|_| {
                format!("\"{text}\" is no size: expected for example \"64KiB\" or \"7MB\"")
            })
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}B", self.0)
    }
}

/// A probability from 0 to 1, written as a number (`0.01`).
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(pub f64);

impl TryFrom<f64> for Ratio {
    type Error = String;

    fn try_from(ratio: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&ratio) {
            Ok(Self(ratio))
        } else {
            Err(format!(
                "{ratio} is no ratio: expected a number from 0 to 1"
            ))
        }
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> Self {
        ratio.0
    }
}

macro_rules! string_conversions {
    ($($name:ty),*) => {$(
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}
string_conversions!(Rate, Time, QueueLimit, Bytes);

/// Splits `"20Mbit"` into `"20"` and `"Mbit"`.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!("20Mbit".parse(), Ok(Rate(20_000_000)));
        assert_eq!("2.5mbit".parse(), Ok(Rate(2_500_000)));
        assert_eq!("500kbit".parse(), Ok(Rate(500_000)));
        for bad in ["", "20", "Mbit", "20MB", "0Mbit", "-1Mbit", "1e3Gbit"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        assert_eq!(Rate(2_500_000).to_string(), "2500kbit");
    }

    #[test]
    fn times() {
        assert_eq!("10ms".parse(), Ok(Time(Duration::from_millis(10))));
        assert_eq!("0.5ms".parse(), Ok(Time(Duration::from_micros(500))));
        assert_eq!("1s 5ms".parse(), Ok(Time(Duration::from_millis(1005))));
        for bad in ["", "ms", "10", "ten ms", "-1ms"] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }

    #[test]
    fn queue_limits() {
        assert_eq!("64KiB".parse(), Ok(QueueLimit::Bytes(65_536)));
        assert_eq!("125KB".parse(), Ok(QueueLimit::Bytes(125_000)));
        assert_eq!("100packets".parse(), Ok(QueueLimit::Packets(100)));
        for bad in ["", "64", "packets", "1.5packets", "64Mbit"] {
            assert!(bad.parse::<QueueLimit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ratios() {
        assert_eq!(Ratio::try_from(0.01), Ok(Ratio(0.01)));
        assert!(Ratio::try_from(1.5).is_err());
        assert!(Ratio::try_from(f64::NAN).is_err());
    }
}
