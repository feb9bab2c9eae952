//! What the verifier knows of a register, in words.

use std::collections::BTreeMap;

/// `pkt(id=0,off=14,r=14,imm=0)` as "a pointer into the packet, …". What is not
/// understood stays as it is.
pub(super) fn of(state: &str) -> String {
    let (kind, attributes) = match state.split_once('(') {
        Some((kind, rest)) => (kind, attributes(rest.strip_suffix(')').unwrap_or(rest))),
        None => (state, BTreeMap::new()),
    };
    // A known value stands behind its kind: `inv5`, `invP5`, `scalar`, or alone: `5`, `P5`.
    let number = ["invP", "inv", "scalar", "P", ""]
        .iter()
        .find_map(|prefix| kind.strip_prefix(prefix)?.parse::<i128>().ok());
    if let Some(number) = number {
        return format!("the number {number}");
    }
    let offset = offset(&attributes);
    match kind {
        "inv" | "invP" | "scalar" => range(&attributes, false).map_or_else(
            || "a number of which nothing is known".to_owned(),
            |range| format!("a number {range}"),
        ),
        // Without a kind: what a refused access to the packet says of its register.
        "pkt" | "" => {
            let checked = attributes.get("r").copied().unwrap_or("0");
            format!("a pointer into the packet{offset}; {checked} bytes are checked")
        }
        "pkt_end" => "the end of the packet".to_owned(),
        "pkt_meta" => format!("a pointer to the packet's metadata{offset}"),
        "ctx" => "the context".to_owned(),
        "map_ptr" => "a map".to_owned(),
        "map_value" => format!("a pointer into a value{}{offset}", of_map(&attributes)),
        "map_value_or_null" => format!("a value{}, or NULL", of_map(&attributes)),
        // `fp-16` is where it points to, or `off` is.
        _ if kind.starts_with("fp") => {
            "a pointer to the stack".to_owned()
                + &match range(&attributes, true) {
                    Some(range) => format!(", with an index {range}"),
                    None => String::new(),
                }
        }
        _ => match kind.strip_suffix("_or_null") {
            Some(kind) => format!("a pointer of type {kind}, or NULL"),
            None => state.to_owned(),
        },
    }
}

fn of_map(attributes: &BTreeMap<&str, &str>) -> String {
    let name = attributes.get("map").filter(|n| !n.is_empty());
    let name = name.map_or(String::new(), |n| format!(" of the map {n}"));
    let size = attributes.get("vs");
    let size = size.map_or(String::new(), |size| format!(" ({size} bytes)"));
    name + &size
}

/// How far a pointer is behind its start.
fn offset(attributes: &BTreeMap<&str, &str>) -> String {
    let fixed = ["off", "imm"]
        .iter()
        .filter_map(|key| attributes.get(key))
        .find(|off| **off != "0");
    let variable = range(attributes, true);
    // A number joined to the pointer has an id, or bounds.
    let unknown = attributes.contains_key("var_off") && variable.is_none();
    match (fixed, variable, unknown) {
        (None, None, false) => String::new(),
        (None, None, true) => ", an unknown offset behind its start".to_owned(),
        (Some(fixed), None, false) => format!(", {fixed} bytes behind its start"),
        (Some(fixed), None, true) => {
            format!(", {fixed} bytes and an unknown offset behind its start")
        }
        (None, Some(range), _) => format!(", an offset {range} behind its start"),
        (Some(fixed), Some(range), _) => {
            format!(", {fixed} bytes and an offset {range} behind its start")
        }
    }
}

/// Between which bounds a number lies, if any are known.
fn range(attributes: &BTreeMap<&str, &str>, of_offset: bool) -> Option<String> {
    let get = |names: [&str; 2]| names.iter().find_map(|n| attributes.get(n)).copied();
    let least = get(["umin", "umin_value"]);
    let most = get(["umax", "umax_value"]);
    let negative = get(["smin", "smin_value"]).filter(|v| v.starts_with('-'));
    match (least, most, negative) {
        (least, Some(most), _) => {
            let least = decimal(least.unwrap_or("0"));
            Some(format!("from {least} to {}", decimal(most)))
        }
        (Some(least), None, _) => Some(format!(
            "from {} on, without an upper bound",
            decimal(least)
        )),
        (None, None, Some(negative)) if !of_offset => {
            let most = get(["smax", "smax_value"])?;
            Some(format!("from {} to {}", decimal(negative), decimal(most)))
        }
        _ => None,
    }
}

/// `0xff` as 255.
fn decimal(number: &str) -> String {
    let digits = number.strip_prefix("0x");
    let value = digits.and_then(|d| u64::from_str_radix(d, 16).ok());
    value.map_or_else(|| number.to_owned(), |v| v.to_string())
}

/// `off=14,smax=umax=0xff,var_off=(0x0; 0xff)` by name; several names may share a value.
fn attributes(text: &str) -> BTreeMap<&str, &str> {
    let mut found = BTreeMap::new();
    let mut depth = 0_usize;
    let parts = text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    for part in parts {
        let Some((names, value)) = part.rsplit_once('=') else {
            continue;
        };
        for name in names.split('=') {
            found.insert(name.trim(), value);
        }
    }
    found
}
