//! Numbers as fixtures write them: `30` or `"0x1e"`; bytes as hexadecimal digits.

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use serde_json::Value;

fn convert<T: TryFrom<u64>>(value: &Value) -> Result<T, String> {
    let number = match value {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s
            .strip_prefix("0x")
            .and_then(|digits| u64::from_str_radix(digits, 16).ok()),
        _ => None,
    };
    number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| {
        format!(
            "expected a number of {} bits or \"0x…\", found {value}",
            8 * size_of::<T>()
        )
    })
}

/// A number, or a string of hexadecimal digits behind `0x`.
pub(crate) fn num<'de, D: Deserializer<'de>, T: TryFrom<u64>>(d: D) -> Result<T, D::Error> {
    convert(&Value::deserialize(d)?).map_err(D::Error::custom)
}

/// The same for a field that may be absent.
pub(crate) fn opt<'de, D: Deserializer<'de>, T: TryFrom<u64>>(d: D) -> Result<Option<T>, D::Error> {
    match Value::deserialize(d)? {
        Value::Null => Ok(None),
        value => convert(&value).map(Some).map_err(D::Error::custom),
    }
}

/// Bytes from hexadecimal digits; blanks and colons are skipped.
pub(crate) fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|b| !matches!(b, b' ' | b':'))
        .map(|b| (b as char).to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()
        .ok_or_else(|| format!("expected hexadecimal digits, found {text:?}"))?;
    if !digits.len().is_multiple_of(2) {
        return Err(format!("odd number of hexadecimal digits in {text:?}"));
    }
    Ok(digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect())
}

/// A string of hexadecimal digits.
pub(crate) fn hex<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    parse_hex(&String::deserialize(d)?).map_err(D::Error::custom)
}
