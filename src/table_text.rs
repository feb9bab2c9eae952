//! Entries of a table as people write them, and as they are shown: pure.

use std::collections::BTreeMap;

use serde_json::Map;
use serde_json::Value as Plain;

use crate::module::TableKey;
use crate::params::Entry;
use crate::params::InterfaceResolver;
use crate::params::decode_key;
use crate::params::decode_value;
use crate::params::encode_elements;
use crate::params::encode_key;
use crate::params::encode_value;
use crate::params::literal;
use crate::policy::Diagnostic;
use crate::policy::Json;
use crate::policy::Place;
use crate::policy::Spanned;
use crate::policy::Value;
use crate::policy::quoted;
use crate::policy::read;
use crate::table::Definition;

/// The keys for which a word stands: one, but of a range of ports each.
///
/// # Errors
///
/// What is no key of such a table.
pub fn keys(key: TableKey, word: &str, at: &Place) -> Result<Vec<Vec<u8>>, Diagnostic> {
    let json = match key {
        // A number, or one in hexadecimal.
        TableKey::Token => literal(word, at),
        _ => Spanned::new(Value::String(word.to_owned()), at.clone()),
    };
    encode_key(key, &json)
}

/// The entries for a key and a value, each as a word.
///
/// # Errors
///
/// What is wrong with them, or that a value is missing, or is too many.
pub fn entries(
    definition: &Definition,
    (key, key_at): (&str, &Place),
    value: Option<(&str, &Place)>,
    interfaces: &dyn InterfaceResolver,
) -> Result<Vec<Entry>, Vec<Diagnostic>> {
    let value = match (&definition.value, value) {
        (None, None) => vec![1],
        (Some(ty), Some((word, at))) => encode_value(ty, &literal(word, at), interfaces)?,
        (None, Some((word, at))) => {
            let message = format!("the table holds keys only: unexpected {}", quoted(word));
            return Err(vec![Diagnostic::new(at, message)]);
        }
        (Some(ty), None) => {
            let message = format!("the value of {} is missing: {ty}", quoted(key));
            return Err(vec![Diagnostic::new(key_at, message)]);
        }
    };
    let keys = keys(definition.key, key, key_at).map_err(|error| vec![error])?;
    Ok(keys.into_iter().map(|key| (key, value.clone())).collect())
}

/// Reads a file of entries: JSON as `elements` in a policy, or a line `KEY [VALUE]` each, where `#`
/// begins a comment. A later line for the same key counts.
///
/// # Errors
///
/// All that is wrong, with file and line.
pub fn parse(
    file: &str,
    bytes: &[u8],
    definition: &Definition,
    interfaces: &dyn InterfaceResolver,
) -> Result<Vec<Entry>, Vec<Diagnostic>> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| vec![Diagnostic::of_file(file, "is not UTF-8")])?;
    if is_json(text) {
        return parse_json(file, bytes, definition, interfaces);
    }
    let mut found: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let mut words = Vec::new();
        let before = line.split_once('#').map_or(line, |(before, _)| before);
        for word in before.split_whitespace() {
            let offset = word.as_ptr() as usize - line.as_ptr() as usize;
            let column = line[..offset].chars().count() + 1;
            let column = u32::try_from(column).unwrap_or(u32::MAX);
            words.push((word, Place::in_text(file, number, column)));
        }
        let entries = match &words[..] {
            [] => continue,
            [(key, at)] => entries(definition, (key, at), None, interfaces),
            [(key, at), (value, value_at)] => {
                entries(definition, (key, at), Some((value, value_at)), interfaces)
            }
            [_, _, (word, at), ..] => {
                let message = format!("expected KEY or KEY VALUE, found {} too", quoted(word));
                Err(vec![Diagnostic::new(at, message)])
            }
        };
        match entries {
            Ok(entries) => found.extend(entries),
            Err(error) => errors.extend(error),
        }
    }
    if errors.is_empty() {
        Ok(found.into_iter().collect())
    } else {
        Err(errors)
    }
}

/// Whether a file is JSON, and not lines of which the first begins with an address in brackets.
fn is_json(text: &str) -> bool {
    let text = text.trim_start();
    let Some(inside) = text.strip_prefix('[') else {
        return text.starts_with('{');
    };
    match inside.trim_start().as_bytes().first() {
        None | Some(b'"' | b']') => true,
        Some(b'0'..=b'9') => !text.lines().next().is_some_and(|line| line.contains("]:")),
        Some(_) => false,
    }
}

fn parse_json(
    file: &str,
    bytes: &[u8],
    definition: &Definition,
    interfaces: &dyn InterfaceResolver,
) -> Result<Vec<Entry>, Vec<Diagnostic>> {
    let (json, duplicates): (Json, _) = read(file, bytes).map_err(|error| vec![error])?;
    if !duplicates.is_empty() {
        return Err(duplicates);
    }
    let expected = match definition.value {
        None => "an array of keys",
        Some(_) => "an object of key to value",
    };
    if json.as_array().is_some() != definition.value.is_none() {
        return Err(vec![Diagnostic::expected(&json.at, expected, json.found())]);
    }
    encode_elements(definition.key, definition.value.as_ref(), &json, interfaces)
}

/// A key as it is written, without quotation marks.
pub fn show_key(key: TableKey, bytes: &[u8]) -> String {
    match decode_key(key, bytes) {
        Some(Plain::String(text)) => text,
        Some(other) => other.to_string(),
        None => format!("{bytes:02x?}"),
    }
}

/// A value as it is written; `None` for the entries of a set.
pub fn show_value(
    definition: &Definition,
    bytes: &[u8],
    interfaces: &dyn InterfaceResolver,
) -> Option<Plain> {
    let ty = definition.value.as_ref()?;
    let number = || Plain::from(format!("{bytes:02x?}"));
    Some(decode_value(ty, bytes, interfaces).unwrap_or_else(number))
}

/// Entries in the form of `elements`, by their keys.
pub fn to_elements(
    definition: &Definition,
    entries: &[Entry],
    interfaces: &dyn InterfaceResolver,
) -> Plain {
    let key = |bytes: &[u8]| show_key(definition.key, bytes);
    if definition.value.is_none() {
        let keys = entries
            .iter()
            .filter_map(|(bytes, _)| decode_key(definition.key, bytes));
        return keys.collect();
    }
    let members = entries.iter().filter_map(|(bytes, value)| {
        Some((key(bytes), show_value(definition, value, interfaces)?))
    });
    Plain::Object(members.collect::<Map<String, Plain>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Type;
    use crate::params::AnyInterface;

    fn table(key: TableKey, value: Option<Type>) -> Definition {
        Definition {
            key,
            value,
            size: 100,
            timeout: None,
            of_file: false,
        }
    }

    fn elements(definition: &Definition, text: &str) -> Result<String, String> {
        match parse("f", text.as_bytes(), definition, &AnyInterface) {
            Ok(entries) => Ok(to_elements(definition, &entries, &AnyInterface).to_string()),
            Err(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(lines.join("\n"))
            }
        }
    }

    #[test]
    fn lines_and_json_say_the_same() {
        let slow = table(TableKey::Subflow, Some(Type::Bytes));
        let lines = "# slow ones\n\n[fc00::1]:1-[fc00::2]:2 64KiB # v6\n 10.0.0.1:1-10.0.0.2:2\t1\n10.0.0.1:1-10.0.0.2:2 2\n";
        let json = r#"{"10.0.0.1:1-10.0.0.2:2":2,"[fc00::1]:1-[fc00::2]:2":"64KiB"}"#;
        let expected = r#"{"10.0.0.1:1-10.0.0.2:2":2,"[fc00::1]:1-[fc00::2]:2":"64KiB"}"#;
        assert_eq!(elements(&slow, lines).as_deref(), Ok(expected));
        assert_eq!(elements(&slow, json).as_deref(), Ok(expected));
        let ports = table(TableKey::Port, None);
        assert_eq!(elements(&ports, "80\n22-23\n").as_deref(), Ok("[22,23,80]"));
        assert_eq!(
            elements(&ports, "[80, \"22-23\"]").as_deref(),
            Ok("[22,23,80]")
        );
        assert_eq!(elements(&ports, "").as_deref(), Ok("[]"));
        let subflows = table(TableKey::Subflow, None);
        let one = "[fc00::1]:1-[fc00::2]:2";
        for text in [
            one.to_owned(),
            format!("[\"{one}\"]"),
            format!(" [\n\"{one}\"]"),
        ] {
            assert_eq!(elements(&subflows, &text).unwrap(), format!("[\"{one}\"]"));
        }
        let digits = "[2001:db8::1]:1-[2001:db8::2]:2";
        assert_eq!(
            elements(&subflows, digits).unwrap(),
            format!("[\"{digits}\"]")
        );
        let tokens = table(TableKey::Token, Some(Type::Uint(1)));
        assert_eq!(
            elements(&tokens, "0x10 1\n17 0xff").as_deref(),
            Ok(r#"{"0x00000010":1,"0x00000011":255}"#)
        );
    }

    #[test]
    fn errors_have_a_place() {
        let slow = table(TableKey::Addr, Some(Type::Bytes));
        let errors = elements(&slow, "10.0.0.1 64K\n  ::g 1\n::1\n::1 1 2").unwrap_err();
        let lines: Vec<&str> = errors.lines().collect();
        assert_eq!(lines.len(), 4, "{errors}");
        for (line, begin) in lines
            .iter()
            .zip(["f:1:10: ", "f:2:3: ", "f:3:1: ", "f:4:7: "])
        {
            assert!(line.starts_with(begin), "{line}");
        }
        let wrong = elements(&slow, r#"["::1"]"#).unwrap_err();
        assert!(
            wrong.contains("expected an object of key to value"),
            "{wrong}"
        );
        let set = table(TableKey::Addr, None);
        let wrong = elements(&set, "::1 5").unwrap_err();
        assert!(
            wrong.starts_with("f:1:5: the table holds keys only"),
            "{wrong}"
        );
    }
}
