use proptest::prelude::*;
use serde_json::Value as Plain;
use serde_json::json;

use super::*;
use crate::schema::tests::accepts_grammar;

fn fragment(name: &str, bytes: impl AsRef<[u8]>) -> Fragment {
    Fragment {
        name: name.to_owned(),
        bytes: bytes.as_ref().to_vec(),
    }
}

fn parsed(text: &str) -> Policy {
    let policy = parse(&[fragment("p", text)]);
    let policy = policy.unwrap_or_else(|errors| panic!("{errors:?} in {text}"));
    accepts_grammar(text);
    policy
}

fn errors(bytes: impl AsRef<[u8]>) -> Vec<String> {
    let errors = parse(&[fragment("p", bytes)]).expect_err("must fail");
    errors.iter().map(ToString::to_string).collect()
}

/// A document whose third line is one field.
fn with_field(field: &str) -> String {
    format!("{{\n\"version\": 1,\n{field}\n}}")
}

/// A document whose third line is the last field of a chain.
fn with_chain_field(field: &str) -> String {
    format!(
        "{{ \"version\": 1, \"chains\": [{{ \"name\": \"c\", \"interfaces\": [\"eth0\"],\n \
         \"hook\": \"tc-ingress\", \"act\": [{{ \"x\": {{}} }}],\n{field}\n}}] }}"
    )
}

#[test]
fn what_is_not_json() {
    let brackets = "[".repeat(100_000);
    let braces = "{\"a\":".repeat(100_000);
    for (text, expected) in [
        (
            &b""[..],
            "p:1:1: expected a JSON object, found an empty file",
        ),
        (
            b" \n\t ",
            "p:2:3: expected a JSON object, found nothing but blanks",
        ),
        (
            b"\xef\xbb\xbf{}",
            "p:1:1: the file begins with a byte order mark: save it as UTF-8 without one",
        ),
        (
            b"\xff\xfe{\0}\0",
            "p:1:1: the file is UTF-16: save it as UTF-8",
        ),
        (
            b"{\n \"\xc3\xbc\xff\": 1 }",
            "p:2:4: byte 0xff is not UTF-8",
        ),
        (
            b"{ \"version\": 1 ",
            "p:1:16: the file ends within the `{` of line 1, column 1",
        ),
        (
            b"{ \"chains\": [",
            "p:1:14: chains: the file ends within the `[` of line 1, column 13",
        ),
        (
            b"{ \"version\": 1 } x",
            "p:1:18: expected the end of the file, found `x`",
        ),
        (
            b"{ \"version\": 1, }",
            "p:1:15: a comma behind the last item",
        ),
        (
            b"{ \"chains\": [1,] }",
            "p:1:15: chains: a comma behind the last item",
        ),
        (
            b"{ \"a\": 1 \"b\": 2 }",
            "p:1:10: expected `,` or `}`, found `\"`",
        ),
        (
            b"{ \"a\": [1 2] }",
            "p:1:11: a: expected `,` or `]`, found `2`",
        ),
        (
            b"{ \"a\" 1 }",
            "p:1:7: a: expected `:` behind the key, found `1`",
        ),
        (b"{ \"a\": }", "p:1:8: a: expected a JSON value, found `}`"),
        (
            b"{ a: 1 }",
            "p:1:3: expected a key in double quotes, found `a`",
        ),
        (b"{ 'a': 1 }", "p:1:3: keys stand in double quotes"),
        (
            b"{ \"a\": 'b' }",
            "p:1:8: a: strings stand in double quotes",
        ),
        (
            b"{ // x\n}",
            "p:1:3: JSON has no comments: use the field \"comment\"",
        ),
        (
            b"{ \"a\": # x\n1 }",
            "p:1:8: a: JSON has no comments: use the field \"comment\"",
        ),
        (
            b"{ \"a\": True }",
            "p:1:8: a: expected a JSON value, found `True`",
        ),
        (
            b"{ \"a\": nullx }",
            "p:1:8: a: expected a JSON value, found `nullx`",
        ),
        (
            b"{ \"a\": NaN }",
            "p:1:8: a: expected a JSON value, found `NaN`",
        ),
        (
            b"{ \"a\": 0x10 }",
            "p:1:8: a: JSON has no hexadecimal numbers: write it in double quotes",
        ),
        (b"{ \"a\": +1 }", "p:1:8: a: a number has no leading `+`"),
        (b"{ \"a\": 01 }", "p:1:8: a: a number has no leading zeros"),
        (b"{ \"a\": .5 }", "p:1:8: a: a number begins with a digit"),
        (b"{ \"a\": - }", "p:1:8: a: a number begins with a digit"),
        (
            b"{ \"a\": 5. }",
            "p:1:8: a: digits must follow the point of a number",
        ),
        (
            b"{ \"a\": 5e }",
            "p:1:8: a: digits must follow the exponent of a number",
        ),
        (
            b"{ \"a\": 64KiB }",
            "p:1:8: a: a number with a unit stands in double quotes",
        ),
        (
            b"{ \"a\": 1e999 }",
            "p:1:8: a: the number is out of range: it does not fit in 64 bits",
        ),
        (
            b"{ \"a\": 18446744073709551616 }",
            "p:1:8: a: the number is out of range: it does not fit in 64 bits",
        ),
        (
            b"{ \"a\": \"b\n\" }",
            "p:1:8: a: the string is not closed on its line",
        ),
        (
            b"{ \"a\": \"b",
            "p:1:8: a: the string is not closed on its line",
        ),
        (
            b"{ \"a\": \"b\x00\" }",
            "p:1:10: a: control character in a string: write it as \\u0000",
        ),
        (
            b"{ \"a\": \0 }",
            "p:1:8: a: expected a JSON value, found the character U+0000",
        ),
        (
            "{\u{a0}}".as_bytes(),
            "p:1:2: expected a key in double quotes, found the character U+00A0",
        ),
        (b"{ \"a\": \"\\x41\" }", "p:1:9: a: not an escape of JSON"),
        (
            b"{ \"a\": \"\\u12g4\" }",
            "p:1:9: a: \\u takes four hexadecimal digits",
        ),
        (
            b"{ \"a\": \"\\ud800\" }",
            "p:1:9: a: \\ud800 is half of a surrogate pair",
        ),
        (
            b"{ \"a\": \"\\udc00x\" }",
            "p:1:9: a: \\udc00 is half of a surrogate pair",
        ),
        (
            brackets.as_bytes(),
            "p:1:257: {}: nested deeper than 256 arrays and objects",
        ),
        (
            braces.as_bytes(),
            "p:1:1281: {}: nested deeper than 256 arrays and objects",
        ),
    ] {
        let found = errors(text);
        assert_eq!(found.len(), 1, "{found:?}");
        if let Some((before, after)) = expected.split_once("{}") {
            assert!(
                found[0].starts_with(before) && found[0].ends_with(after),
                "{}",
                found[0]
            );
        } else {
            assert_eq!(found[0], expected, "{}", String::from_utf8_lossy(text));
        }
    }
}

#[test]
fn what_is_not_a_policy() {
    for (text, expected) in [
        ("[]", "p:1:1: expected a JSON object, found an empty array"),
        ("\"x\"", "p:1:1: expected a JSON object, found \"x\""),
        ("{}", "p:1:1: the field \"version\" is missing"),
        (
            "{ \"version\": 2 }",
            "p:1:14: version: version 2 of the format is unknown: this program reads version 1",
        ),
        (
            "{ \"version\": \"1\" }",
            "p:1:14: version: expected the number 1, found \"1\"",
        ),
        (
            "{ \"version\": 1,\n  \"version\": 1 }",
            "p:2:3: version: the key \"version\" is given twice: first on line 1",
        ),
    ] {
        assert_eq!(errors(text), [expected], "{text}");
    }
    for (field, expected) in [
        (
            r#""chain": []"#,
            "3:1: chain: unknown field \"chain\"; did you mean \"chains\"?",
        ),
        (
            r#""ü": 1, "x": 2"#,
            "3:1: [\"ü\"]: unknown field \"ü\"\np:3:9: x: unknown field \"x\"",
        ),
        (
            r#""$schema": 1"#,
            "3:12: $schema: expected a string, found 1",
        ),
        (
            r#""comment": null"#,
            "3:12: comment: expected a string, found null",
        ),
        (
            r#""track": []"#,
            "3:10: track: expected at least one interface, found an empty array",
        ),
        (
            r#""track": ["eth0", "eth0"]"#,
            "3:19: track[1]: the interface \"eth0\" is given twice",
        ),
        (
            r#""limits": []"#,
            "3:11: limits: expected an object of limits, found an empty array",
        ),
        (
            r#""limits": { "subflow": 1 }"#,
            "3:13: limits.subflow: unknown limit \"subflow\"; did you mean \"subflows\"?",
        ),
        (
            r#""limits": { "subflows": 0 }"#,
            "3:25: limits.subflows: expected a number from 1 to 4294967295, found 0",
        ),
        (
            r#""limits": { "subflows": "9" }"#,
            "3:25: limits.subflows: expected a number from 1 to 4294967295, found \"9\"",
        ),
        (
            r#""tables": []"#,
            "3:11: tables: expected an object of name to table, found an empty array",
        ),
        (
            r#""tables": { "A": { "type": "addr" } }"#,
            "3:13: tables.A: expected a name of 1 to 63 characters of a-z, 0-9, _ and -, found \"A\"",
        ),
        (
            r#""tables": { "a": 1 }"#,
            "3:18: tables.a: expected a table: an object with \"type\", found 1",
        ),
        (
            r#""tables": { "a": {} }"#,
            "3:18: tables.a: the field \"type\" is missing",
        ),
        (
            r#""tables": { "a": { "type": "prefx" } }"#,
            "3:28: tables.a.type: expected \"prefix\", \"addr\", \"subflow\", \"token\" or \"port\", found \"prefx\"; did you mean \"prefix\"?",
        ),
        (
            r#""tables": { "a": { "type": "addr", "vlaue": "u8" } }"#,
            "3:36: tables.a.vlaue: unknown field \"vlaue\"; did you mean \"value\"?",
        ),
        (
            r#""tables": { "a": { "type": "addr", "timeout": "10" } }"#,
            "3:47: tables.a.timeout: expected a time such as \"100ms\", found \"10\" without a unit",
        ),
        (
            r#""tables": { "a": { "type": "addr", "timeout": "0s" } }"#,
            "3:47: tables.a.timeout: expected a time longer than 0, found \"0s\"",
        ),
        (
            r#""tables": { "a": { "type": "addr", "default": 1 } }"#,
            "3:47: tables.a.default: a default needs the type of the values: the field \"value\" is missing",
        ),
        (
            r#""tables": { "a": { "type": "addr", "elements": {} } }"#,
            "3:48: tables.a.elements: expected an array of keys, found an empty object",
        ),
        (
            r#""tables": { "a": { "type": "addr", "value": "u8", "elements": [] } }"#,
            "3:63: tables.a.elements: expected an object of key to value, found an empty array",
        ),
        (
            r#""tables": { "a": { "type": "addr", "size": 1, "elements": ["::1", "::2"] } }"#,
            "3:59: tables.a.elements: 2 elements do not fit in the size 1",
        ),
        (
            r#""tables": { "a": { "type": "addr", "timeout": "1s", "elements": [] } }"#,
            "3:47: tables.a.timeout: a table with elements belongs to the file and forgets none: it has no timeout",
        ),
        (
            r#""selectors": { "a": {} }"#,
            "3:21: selectors.a: expected an expression: an object with the name of a selector, all, any, not or use, found an empty object",
        ),
        (
            r#""selectors": { "a": { "x": {}, "y": {} } }"#,
            "3:32: selectors.a.y: expected an expression: an object with the name of a selector, all, any, not or use with one key, found the key \"y\" too",
        ),
        (
            r#""selectors": { "a": { "all": {} } }"#,
            "3:30: selectors.a.all: expected an array of expressions, found an empty object",
        ),
        (
            r#""selectors": { "a": { "not": [] } }"#,
            "3:30: selectors.a.not: expected an expression: an object with the name of a selector, all, any, not or use, found an empty array",
        ),
        (
            r#""selectors": { "a": { "use": 1 } }"#,
            "3:30: selectors.a.use: expected a string, found 1",
        ),
        (
            r#""selectors": { "a": { "use": "b" }, "bb": { "x": {} } }"#,
            "3:30: selectors.a.use: no shared selector is named \"b\"",
        ),
        (
            r#""selectors": { "lte": { "x": {} }, "a": { "use": "let" } }"#,
            "3:50: selectors.a.use: no shared selector is named \"let\"; did you mean \"lte\"?",
        ),
        (
            r#""selectors": { "a": { "use": "a" } }"#,
            "3:30: selectors.a.use: \"a\" uses itself: a → a",
        ),
        (
            r#""selectors": { "a": { "not": { "use": "b" } }, "b": { "any": [{ "use": "a" }] } }"#,
            "3:72: selectors.b.any[0].use: \"a\" uses itself: a → b → a",
        ),
        (
            r#""selectors": { "a": { "x": [] } }"#,
            "3:28: selectors.a.x: expected an object of parameters, found an empty array",
        ),
        (
            r#""selectors": { "a": { "All": {} } }"#,
            "3:23: selectors.a.All: expected the name of a module, found \"All\"; did you mean \"all\"?",
        ),
        (
            r#""actors": { "a": {} }"#,
            "3:18: actors.a: expected an array of actors, found an empty object",
        ),
        (
            r#""actors": { "a": [] }"#,
            "3:18: actors.a: expected at least one actor, found an empty array",
        ),
        (
            r#""actors": { "a": [{ "not": {} }] }"#,
            "3:21: actors.a[0].not: \"not\" is for expressions: actors run one after the other",
        ),
        (
            r#""actors": { "a": [{ "use": "b" }], "b": [{ "use": "a" }] }"#,
            "3:51: actors.b[0].use: \"a\" uses itself: a → b → a",
        ),
        (
            r#""actors": { "a": [{ "use": "z" }] }"#,
            "3:28: actors.a[0].use: no shared list of actors is named \"z\"",
        ),
        (
            r#""chains": {}"#,
            "3:11: chains: expected an array of chains, found an empty object",
        ),
        (
            r#""chains": [1]"#,
            "3:12: chains[0]: expected a chain: an object with \"name\", \"hook\", \"interfaces\" and \"act\", found 1",
        ),
        (
            r#""chains": [{}]"#,
            "3:12: chains[0]: the field \"act\" is missing\np:3:12: chains[0]: the field \"hook\" is missing\np:3:12: chains[0]: the field \"interfaces\" is missing\np:3:12: chains[0]: the field \"name\" is missing",
        ),
    ] {
        assert_eq!(
            errors(with_field(field)).join("\n"),
            format!("p:{expected}"),
            "{field}"
        );
    }
}

#[test]
fn what_is_not_a_chain() {
    for (field, expected) in [
        (
            r#""priorty": 1"#,
            "3:1: chains[0].priorty: unknown field \"priorty\"; did you mean \"priority\"?",
        ),
        (
            r#""priority": 2147483648"#,
            "3:13: chains[0].priority: expected a number from -2147483648 to 2147483647, found 2147483648",
        ),
        (
            r#""priority": 1.5"#,
            "3:13: chains[0].priority: expected a number from -2147483648 to 2147483647, found 1.5",
        ),
        (
            r#""enabled": 1"#,
            "3:12: chains[0].enabled: expected true or false, found 1",
        ),
        (
            r#""zone": -1"#,
            "3:9: chains[0].zone: expected a number from 0 to 4294967295, found -1",
        ),
        (
            r#""on_error": "block""#,
            "3:13: chains[0].on_error: expected \"pass\" or \"drop\", found \"block\"",
        ),
        (
            r#""xdp": {}"#,
            "3:1: chains[0].xdp: the chain is not at the hook xdp",
        ),
        (
            r#""position": "frist""#,
            "3:13: chains[0].position: expected \"first\", \"last\" or {\"before\": program}, found \"frist\"; did you mean \"first\"?",
        ),
        (
            r#""position": { "after": 1 }"#,
            "3:13: chains[0].position: the field \"before\" is missing\np:3:15: chains[0].position.after: unknown field \"after\"",
        ),
        (
            r#""position": { "before": 0 }"#,
            "3:25: chains[0].position.before: expected a number from 1 to 4294967295, found 0",
        ),
        (
            r#""select": []"#,
            "3:11: chains[0].select: expected an expression: an object with the name of a selector, all, any, not or use, found an empty array",
        ),
        (
            r#""select": { "not": {} }"#,
            "3:20: chains[0].select.not: expected an expression: an object with the name of a selector, all, any, not or use, found an empty object",
        ),
        (
            r#""select": { "all": [{ "x": 1 }, 2] }"#,
            "3:28: chains[0].select.all[0].x: expected an object of parameters, found 1\np:3:33: chains[0].select.all[1]: expected an expression: an object with the name of a selector, all, any, not or use, found 2",
        ),
        (
            r#""select": { "use": "nowhere" }"#,
            "3:20: chains[0].select.use: no shared selector is named \"nowhere\"",
        ),
    ] {
        assert_eq!(
            errors(with_chain_field(field)).join("\n"),
            format!("p:{expected}"),
            "{field}"
        );
    }
    let chain = |name: &str, hook: &str, interfaces: &str, more: &str| {
        with_field(&format!(
            "\"chains\": [{{ \"name\": {name},\n\"hook\": {hook},\n\"interfaces\": {interfaces}{more},\n\"act\": [{{ \"x\": {{}} }}] }}]"
        ))
    };
    for (name, hook, interfaces, more, expected) in [
        (
            "1",
            "\"xdp\"",
            "[\"a\"]",
            "",
            "3:22: chains[0].name: expected a string, found 1",
        ),
        (
            "\"a b\"",
            "\"xdp\"",
            "[\"a\"]",
            "",
            "3:22: chains[0].name: expected a name of 1 to 63 characters of a-z, 0-9, _ and -, found \"a b\"",
        ),
        (
            "\"a\\u0000\"",
            "\"xdp\"",
            "[\"a\"]",
            "",
            "3:22: chains[0].name: expected a name of 1 to 63 characters of a-z, 0-9, _ and -, found \"a\\0\"",
        ),
        (
            "\"a\"",
            "\"tc-ingres\"",
            "[\"a\"]",
            "",
            "4:9: chains[0].hook: expected \"xdp\", \"tc-ingress\" or \"tc-egress\", found \"tc-ingres\"; did you mean \"tc-ingress\"?",
        ),
        (
            "\"a\"",
            "[]",
            "[\"a\"]",
            "",
            "4:9: chains[0].hook: expected at least one hook, found an empty array",
        ),
        (
            "\"a\"",
            "[\"xdp\", \"xdp\"]",
            "[\"a\"]",
            "",
            "4:17: chains[0].hook[1]: the hook xdp is given twice",
        ),
        (
            "\"a\"",
            "1",
            "[\"a\"]",
            "",
            "4:9: chains[0].hook: expected \"xdp\", \"tc-ingress\" or \"tc-egress\", found 1",
        ),
        (
            "\"a\"",
            "\"xdp\"",
            "\"eth0\"",
            "",
            "5:15: chains[0].interfaces: expected an array of interfaces such as [\"eth0\", \"wwan*\"], found \"eth0\"",
        ),
        (
            "\"a\"",
            "\"xdp\"",
            "[]",
            "",
            "5:15: chains[0].interfaces: expected at least one interface, found an empty array",
        ),
        (
            "\"a\"",
            "\"xdp\"",
            "[\"a/b\"]",
            "",
            "5:16: chains[0].interfaces[0]: expected the name of an interface or a pattern such as \"wwan*\", found \"a/b\"",
        ),
        (
            "\"a\"",
            "\"xdp\"",
            "[\"a\\u0000\"]",
            "",
            "5:16: chains[0].interfaces[0]: expected the name of an interface or a pattern such as \"wwan*\", found \"a\\0\"",
        ),
        (
            "\"a\"",
            "\"xdp\"",
            "[\"a\", { \"name\": \"a\" }]",
            "",
            "5:21: chains[0].interfaces[1]: the interface \"a\" is given twice",
        ),
        (
            "\"a\"",
            "\"xdp\"",
            "[{ \"optional\": 1 }]",
            "",
            "5:16: chains[0].interfaces[0]: the field \"name\" is missing\np:5:30: chains[0].interfaces[0].optional: expected true or false, found 1",
        ),
        (
            "\"a\"",
            "\"xdp\"",
            "[\"a\"]",
            ", \"position\": \"first\"",
            "5:22: chains[0].position: a position needs a hook of tc: xdp has one place",
        ),
        (
            "\"a\"",
            "\"xdp\"",
            "[\"a\"]",
            ", \"xdp\": { \"mode\": \"skb\", \"x\": 1 }",
            "5:39: chains[0].xdp.mode: expected \"auto\", \"native\" or \"generic\", found \"skb\"\np:5:46: chains[0].xdp.x: unknown field \"x\"",
        ),
    ] {
        let found = errors(chain(name, hook, interfaces, more)).join("\n");
        assert_eq!(
            found,
            format!("p:{expected}"),
            "{name} {hook} {interfaces} {more}"
        );
    }
}

#[test]
fn all_errors_are_found_in_order() {
    let text = "{ \"versoin\": 1,\n \"tables\": { \"A\": 1, \"b\": {} },\n \"chains\": [{ \"name\": 1 }, 2] }";
    let places: Vec<String> = errors(text)
        .iter()
        .map(|e| e.split(": ").take(2).collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "p:1:1 the field \"version\" is missing",
        "p:1:3 versoin",
        "p:2:14 tables.A",
        "p:2:19 tables.A",
        "p:2:27 tables.b",
        "p:3:13 chains[0]",
        "p:3:13 chains[0]",
        "p:3:13 chains[0]",
        "p:3:23 chains[0].name",
        "p:3:28 chains[1]",
    ];
    assert_eq!(places, expected);
}

#[test]
fn errors_as_json() {
    let errors =
        parse(&[fragment("p", "{ \"version\": 1, \"chain\": [] }")]).expect_err("must fail");
    assert_eq!(
        serde_json::to_value(&errors).unwrap(),
        serde_json::json!([{ "file": "p", "line": 1, "column": 17, "json_path": "chain",
            "message": "unknown field \"chain\"", "suggestion": "chains" }])
    );
}

#[test]
fn nesting_is_limited() {
    let nested = |levels: usize| {
        let select = format!(
            "{}{{ \"x\": {{}} }}{}",
            "{ \"not\": ".repeat(levels),
            " }".repeat(levels)
        );
        with_chain_field(&format!("\"select\": {select}"))
    };
    assert!(parse(&[fragment("p", nested(63))]).is_ok());
    let found = errors(nested(64));
    assert!(
        found.len() == 1 && found[0].ends_with("nested deeper than 64 levels"),
        "{found:?}"
    );
    // 20,000 shared expressions, each of which uses the next.
    let shared: Vec<String> = (0..20_000)
        .map(|n| format!("\"s{n}\": {{ \"use\": \"s{}\" }}", n + 1))
        .collect();
    let text = with_field(&format!(
        "\"selectors\": {{ {}, \"s20000\": {{ \"x\": {{}} }} }}",
        shared.join(",")
    ));
    assert!(
        errors(text)
            .iter()
            .any(|error| error.ends_with("nested deeper than 64 levels"))
    );
    // Each of the levels doubles the steps.
    let shared: Vec<String> = (0..60)
        .map(|n| {
            format!(
                "\"s{n}\": {{ \"all\": [{{ \"use\": \"s{0}\" }}, {{ \"use\": \"s{0}\" }}] }}",
                n + 1
            )
        })
        .collect();
    // With the actor 2049, 4097 and 2^31 + 1 steps.
    for (levels, fits) in [(11, true), (12, false), (31, false)] {
        let first = 60 - levels;
        let text = format!(
            "{{ \"version\": 1, \"selectors\": {{ {}, \"s60\": {{ \"x\": {{}} }} }}, \"chains\": [{{ \"name\": \"c\", \
             \"hook\": \"xdp\", \"interfaces\": [\"a\"], \"select\": {{ \"use\": \"s{first}\" }}, \"act\": [{{ \"x\": {{}} }}] }}] }}",
            shared[first..].join(",")
        );
        let found = parse(&[fragment("p", text)]).err().unwrap_or_default();
        let message =
            "the chain \"c\" has more than 4096 steps, those of shared sub-policies included";
        let too_many = found.iter().any(|error| error.message == message);
        assert_eq!(
            (too_many, found.is_empty()),
            (!fits, fits),
            "{levels}: {found:?}"
        );
    }
}

#[test]
fn fragments_count_as_one() {
    let chain = |name: &str, priority: i32| {
        format!(
            r#"{{ "name": "{name}", "hook": "xdp", "interfaces": ["a"], "priority": {priority},
                 "act": [{{ "x": {{}} }}] }}"#
        )
    };
    let a = format!(
        r#"{{ "version": 1, "comment": "one", "$schema": "s", "chains": [{}, {}], "limits": {{ "subflows": 2 }} }}"#,
        chain("z", 5),
        chain("y", 0)
    );
    let b = format!(
        r#"{{ "version": 1, "comment": "two", "$schema": "t", "limits": {{ "connections": 1 }}, "chains": [{}, {}] }}"#,
        chain("x", 0),
        chain("w", -5)
    );
    let policy = parse(&[fragment("a", &a), fragment("b", &b)]).unwrap();
    let names = |policy: &Policy| {
        policy
            .in_order()
            .iter()
            .map(|chain| chain.name.value.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&policy), ["w", "y", "x", "z"]);
    assert_eq!(policy.comment.as_deref(), Some("one\ntwo"));
    assert_eq!(policy.schema.as_deref(), Some("s"));
    let limits = [("connections", 1), ("subflows", 2)].map(|(name, n)| (name.to_owned(), n));
    assert_eq!(policy.limits(), limits.into());
    let again = parsed(&canonical_text(&policy));
    assert_eq!(again, policy);
    assert_eq!(names(&again), names(&policy));
    let twice =
        parse(&[fragment("a", &a), fragment("c", &a), fragment("d", "{")]).expect_err("twice");
    let twice: Vec<String> = twice.iter().map(ToString::to_string).collect();
    assert_eq!(
        twice,
        [
            "c:1:72: chains[0].name: the chain \"z\" is defined twice: first at a:1:72",
            "c:2:52: chains[1].name: the chain \"y\" is defined twice: first at a:2:52",
            "c:3:55: limits.subflows: the limit \"subflows\" is defined twice: first at a:3:55",
            "d:1:2: the file ends within the `{` of line 1, column 1",
        ]
    );
}

const EXAMPLE: &str = r#"{ "version": 1, "$schema": "s", "comment": "c", "limits": { "connections": 5 }, "track": ["eth0", { "name": "eth1", "optional": true }],
  "tables": { "slow": { "comment": "x", "type": "subflow", "value": "bytes", "size": 100000, "timeout": "600s", "default": "1MiB" },
              "rates": { "type": "prefix", "value": "rate", "elements": { "10.0.0.0/8": "1Mbit" } },
              "private": { "type": "prefix", "elements": ["10.0.0.0/8", "fc00::/7"] } },
  "selectors": { "lte": { "any": [ { "src": { "in": ["10.1.0.0/16"] } }, { "subflow": { "table": "slow" } } ] } },
  "actors": { "watch": [ { "record": {} } ] },
  "chains": [
    { "act": [ { "use": "watch" }, { "set_recv_win": { "bytes": "64KiB", "ratio": 0.1 } } ],
      "name": "cap-lte", "hook": "tc-ingress", "interfaces": ["wwan*", { "name": "eth0" }, { "name": "x", "optional": true }],
      "priority": 10, "enabled": false, "while_up": ["wwan*", { "name": "x" }], "zone": 3, "on_error": "drop", "position": { "before": 12 },
      "select": { "all": [ { "mptcp": {} }, { "use": "lte" }, { "not": { "dport": { "in": ["22", "8000-8010"] } } }, { "any": [] } ] } },
    { "name": "b", "hook": ["xdp", "tc-egress"], "interfaces": ["e"], "priority": 0, "enabled": true, "zone": 0, "on_error": "pass",
      "xdp": { "mode": "native", "replace": true, "trust_checksums": true }, "position": { "before": "firewall" },
      "select": {}, "act": [ { "record": {} } ] },
    { "name": "c", "hook": ["xdp"], "interfaces": ["e"], "xdp": {}, "select": { "all": [] }, "act": [ { "record": {} } ] } ] }"#;

#[test]
fn the_canonical_form() {
    let policy = parsed(EXAMPLE);
    let text = canonical_text(&policy);
    let again = parsed(&text);
    assert_eq!(again, policy);
    assert_eq!(canonical_text(&again), text);
    let canonical = canonical(&policy);
    let keys = |value: &Plain| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        keys(&canonical),
        [
            "version",
            "$schema",
            "comment",
            "limits",
            "track",
            "tables",
            "selectors",
            "actors",
            "chains"
        ]
    );
    assert_eq!(
        keys(&canonical["chains"][0]),
        [
            "name",
            "hook",
            "interfaces",
            "priority",
            "enabled",
            "while_up",
            "zone",
            "on_error",
            "position",
            "select",
            "act"
        ]
    );
    assert_eq!(canonical["tables"]["slow"]["timeout"], "10m");
    assert_eq!(
        canonical["chains"][0]["interfaces"],
        serde_json::json!(["wwan*", "eth0", { "name": "x", "optional": true }])
    );
    assert_eq!(
        canonical["chains"][2],
        serde_json::json!({ "name": "c", "hook": "xdp", "interfaces": ["e"], "select": { "all": [] }, "act": [{ "record": {} }] })
    );
    assert_eq!(
        policy.chain("b").map(|chain| chain.select.is_none()),
        Some(true)
    );
    assert_eq!(
        canonical_text(&Policy::default()),
        "{\n  \"version\": 1\n}\n"
    );
}

#[test]
fn places() {
    let policy = parsed(EXAMPLE);
    let chain = policy.chain("cap-lte").unwrap();
    assert_eq!(chain.name.at.to_string(), "p:9:15");
    assert_eq!(chain.name.at.path(), "chains[0].name");
    let elements = policy.table("rates").unwrap().elements.as_ref().unwrap();
    let member = &elements.as_object().unwrap()[0];
    assert_eq!(
        member.value.at.path(),
        "tables.rates.elements[\"10.0.0.0/8\"]"
    );
    assert_eq!(member.key_at().to_string(), "p:3:75");
    let wide = parse(&[fragment(
        "p",
        "{ \"version\": 1, \"comment\": \"äöü😀\", \"x\": 1 }",
    )]);
    assert_eq!(wide.expect_err("x")[0].column, 36);
}

#[test]
fn directories() {
    let directory = std::env::temp_dir().join(format!("emptcp-policy-{}", std::process::id()));
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    std::fs::create_dir(&directory).unwrap();
    let shown = directory.display();
    let fails = || {
        load(&directory)
            .expect_err("must fail")
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(fails(), [format!("{shown}: the directory holds no *.json")]);
    write("20.json", r#"{ "version": 1, "comment": "b" }"#);
    write("10.json", r#"{ "version": 1, "comment": "a" }"#);
    write(".30.json", "x");
    write("notes.txt", "x");
    assert_eq!(load(&directory).unwrap().comment.as_deref(), Some("a\nb"));
    assert_eq!(
        load(&directory.join("20.json")).unwrap().comment.as_deref(),
        Some("b")
    );
    std::fs::create_dir(directory.join("40.json")).unwrap();
    assert_eq!(
        fails(),
        [format!(
            "{shown}/40.json: cannot be read: Is a directory (os error 21)"
        )]
    );
    let absent = load(&directory.join("absent")).expect_err("absent");
    assert_eq!(
        absent[0].to_string(),
        format!("{shown}/absent: cannot be read: No such file or directory (os error 2)")
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn nearest_names() {
    for (name, names, expected) in [
        ("mtpcp", &["mptcp", "tcp"][..], Some("mptcp")),
        ("recv_win", &["set_recv_win", "x"], Some("set_recv_win")),
        ("x", &["y"], None),
        ("ab", &["ac", "b"], Some("ac")),
        ("SRC", &["src"], Some("src")),
        ("wholly", &["different"], None),
        ("", &["a"], None),
    ] {
        assert_eq!(nearest(name, names.iter().copied()), expected, "{name}");
    }
}

fn documents() -> impl Strategy<Value = Plain> {
    let leaf = prop_oneof![
        Just(Plain::Null),
        any::<bool>().prop_map(Plain::from),
        any::<i64>().prop_map(Plain::from),
        any::<u64>().prop_map(Plain::from),
        any::<f64>().prop_map(Plain::from),
        any::<String>().prop_map(Plain::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Plain::from),
            prop::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Plain::Object(map.into_iter().collect())),
        ]
    })
}

fn agrees_with_serde(text: &[u8]) -> Result<(), TestCaseError> {
    let ours = read("p", text);
    let theirs: Result<Plain, _> = serde_json::from_slice(text);
    match (&ours, &theirs) {
        (Ok((ours, duplicates)), Ok(theirs)) if duplicates.is_empty() => {
            // serde_json takes huge integers as floats.
            let is_near = ours.to_value() == *theirs || has_float(theirs);
            prop_assert!(is_near, "{:?} {}", ours, theirs);
        }
        (Ok(_), Ok(_)) | (Err(_), Err(_)) => {}
        (Err(error), Ok(theirs)) => {
            let out_of_range = error.message.contains("out of range") && has_float(theirs);
            let deep = error.message.contains("deeper");
            prop_assert!(out_of_range || deep, "{} {}", error, theirs);
        }
        (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("recursion"), "{}", error),
    }
    Ok(())
}

fn has_float(value: &Plain) -> bool {
    match value {
        Plain::Number(number) => number.is_f64(),
        Plain::Array(items) => items.iter().any(has_float),
        Plain::Object(members) => members.values().any(has_float),
        _ => false,
    }
}

/// Bytes of which much is nearly JSON.
fn scraps() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"\\u00e4\"",
        "\\",
        "1",
        "-",
        "0",
        ".5",
        "e3",
        "true",
        "null",
        " ",
        "\n",
        "\u{feff}",
        "ü",
        "\0",
        "/",
        "\"b\":",
        "[[",
        "1.5E-7",
        "'",
    ];
    let scrap = prop_oneof![
        9 => prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..3),
    ];
    prop::collection::vec(scrap, 0..12).prop_map(|scraps| scraps.concat())
}

/// What `show --json` prints, of what was stored, is the policy again, to the last digit.
fn round_trip(policy: &Policy) -> Result<(), TestCaseError> {
    let shown = canonical(policy);
    let stored: Plain = serde_json::from_slice(&serde_json::to_vec(&shown).unwrap()).unwrap();
    prop_assert_eq!(&stored, &shown);
    prop_assert_eq!(format!("{stored:#}"), format!("{shown:#}"));
    let again = parse(&[fragment("p", format!("{stored:#}"))]).unwrap();
    prop_assert_eq!(&again, policy);
    prop_assert_eq!(canonical(&again).to_string(), shown.to_string());
    Ok(())
}

/// Expressions over selectors with all kinds of parameters, and names `s0` and `s1`.
fn expressions() -> impl Strategy<Value = Plain> {
    let leaf = prop_oneof![
        Just(json!({ "mptcp": {} })),
        Just(json!({ "use": "s0" })),
        Just(json!({ "use": "s1" })),
        documents().prop_map(|params| json!({ "src": { "in": params } })),
        any::<f64>().prop_map(|ratio| json!({ "sample": { "ratio": ratio } })),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        let parts = || prop::collection::vec(inner.clone(), 0..3);
        prop_oneof![
            parts().prop_map(|parts| json!({ "all": parts })),
            parts().prop_map(|parts| json!({ "any": parts })),
            inner.clone().prop_map(|part| json!({ "not": part })),
        ]
    })
}

/// Chains with every field, or without it; `name` is left out.
fn chains() -> impl Strategy<Value = Plain> {
    let choice = |values: Plain| {
        let values: Vec<Plain> = values.as_array().unwrap().clone();
        prop::option::of(prop::sample::select(values))
    };
    let place = (
        prop::sample::select(vec![
            json!("xdp"),
            json!("tc-ingress"),
            json!(["tc-egress"]),
            json!(["tc-egress", "xdp"]),
        ]),
        choice(
            json!([["eth0"], ["w*", "[!a]?"], [{ "name": "a", "optional": true }, { "name": "b" }]]),
        ),
        choice(
            json!([{}, { "mode": "auto" }, { "mode": "generic", "replace": true }, { "trust_checksums": true }]),
        ),
        choice(json!(["first", "last", { "before": 1 }, { "before": "firewall" }])),
    );
    let rest = (
        prop::option::of(any::<String>().prop_map(Plain::from)),
        prop::option::of(any::<i32>().prop_map(Plain::from)),
        choice(json!([true, false])),
        choice(json!([["eth0"], ["w*", { "name": "b" }]])),
        prop::option::of(any::<u32>().prop_map(Plain::from)),
        choice(json!(["pass", "drop"])),
        prop::option::of(prop_oneof![Just(json!({})), expressions()]),
        choice(
            json!([[{ "use": "a0" }], [{ "drop": {} }], [{ "use": "a1" }, { "mark": { "value": "0xff" } }]]),
        ),
    );
    (place, rest).prop_map(|((hook, interfaces, xdp, position), rest)| {
        let (comment, priority, enabled, while_up, zone, on_error, select, act) = rest;
        let at_xdp = hook.to_string().contains("xdp");
        let at_tc = hook.to_string().contains("tc");
        let mut chain = json!({ "hook": hook, "interfaces": ["lo"], "act": [{ "drop": {} }] });
        for (key, value) in [
            ("interfaces", interfaces),
            ("xdp", xdp.filter(|_| at_xdp)),
            ("position", position.filter(|_| at_tc)),
            ("comment", comment),
            ("priority", priority),
            ("enabled", enabled),
            ("while_up", while_up),
            ("zone", zone),
            ("on_error", on_error),
            ("select", select),
            ("act", act),
        ] {
            if let Some(value) = value {
                chain[key] = value;
            }
        }
        chain
    })
}

fn policies() -> impl Strategy<Value = Plain> {
    let shared = (
        expressions(),
        documents(),
        prop::collection::vec(chains(), 0..4),
    );
    shared.prop_map(|(expression, elements, mut chains)| {
        for (number, chain) in chains.iter_mut().enumerate() {
            chain["name"] = json!(format!("c{number}"));
        }
        let text = expression.to_string();
        let s0 = match text.contains("\"use\"") {
            true => json!({ "any": [] }),
            false => expression,
        };
        json!({ "version": 1, "$schema": "s", "comment": text, "limits": { "subflows": 7 },
            "tables": { "t": { "type": "prefix", "value": "ratio", "default": elements, "size": 3 } },
            "selectors": { "s1": s0, "s0": { "not": { "use": "s1" } } },
            "actors": { "a0": [{ "use": "a1" }, { "record": {} }], "a1": [{ "record": {} }] },
            "chains": chains })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_serde_json_writes_is_read(document in documents()) {
        for text in [document.to_string(), format!("{document:#}")] {
            let (json, duplicates) = read("p", text.as_bytes()).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(duplicates.is_empty());
            prop_assert_eq!(&json.to_value(), &document);
            prop_assert_eq!(&Json::from_value(&document, &json.at), &json);
        }
    }

    #[test]
    fn what_is_shown_is_the_policy(policy in policies()) {
        match parse(&[fragment("p", policy.to_string())]) {
            Ok(policy) => round_trip(&policy)?,
            Err(errors) => prop_assert!(false, "{policy}: {errors:?}"),
        }
    }

    #[test]
    fn we_read_what_serde_json_reads(text in scraps()) {
        agrees_with_serde(&text)?;
    }

    #[test]
    fn damaged_policies_are_refused_or_mean_something(
        at in 0..EXAMPLE.len(), length in 0..40usize, scrap in scraps()
    ) {
        let mut text = EXAMPLE.as_bytes().to_vec();
        let end = (at + length).min(text.len());
        text.splice(at..end, scrap);
        agrees_with_serde(&text)?;
        match parse(&[fragment("p", &text)]) {
            Ok(policy) => {
                round_trip(&policy)?;
                accepts_grammar(std::str::from_utf8(&text).unwrap());
                for chain in &policy.chains {
                    prop_assert!(policy.resolve(chain).is_ok());
                }
            }
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                prop_assert!(errors.is_sorted());
                let lines = text.split(|b| *b == b'\n').count();
                for error in errors {
                    prop_assert!(error.line >= 1 && error.line as usize <= lines && error.column >= 1);
                }
            }
        }
    }
}
