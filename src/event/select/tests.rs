//! Expressions that are asked of events, by modules that exist nowhere.

use std::cell::Cell;

use serde_json::Value as Plain;
use serde_json::json;

use super::*;
use crate::event::Detail;
use crate::event::Side;
use crate::event::tests::add_addr;
use crate::event::tests::subflow;
use crate::module::Kind;
use crate::module::Module;
use crate::module::Type;
use crate::params::fake::list;
use crate::params::fake::module;
use crate::policy::Diagnostic;
use crate::policy::Fragment;
use crate::policy::parse;

fn names(all: &[&str]) -> Vec<(String, i64)> {
    let named = all.iter().map(|name| (*name).to_owned());
    named.zip(0..).collect()
}

fn word(all: &[&str]) -> Type {
    Type::Enum {
        size: 4,
        values: names(all),
    }
}

/// Selectors of all shapes that there are, one that no event tells of, and an actor.
fn modules() -> Vec<Module> {
    let new = |name: &str| module(Kind::Selector, name);
    let either = |m: Module| {
        m.with("either", Type::Bool)
            .default("false")
            .event("either")
    };
    let ends = new("ends")
        .with("from", Type::Addr)
        .required()
        .event("src")
        .with("port", Type::Port)
        .required()
        .event("sport");
    let way = ["both", "up", "down", "packet", "reply"];
    vec![
        new("net")
            .with("in", list(Type::Prefix, 2, Some("in_table")))
            .required()
            .event("src")
            .with("depth", Type::Uint(1)),
        new("to_port")
            .with("in", list(Type::PortRange, 2, Some("in_table")))
            .required()
            .event("dport"),
        either(ends),
        new("conn")
            .with("token", Type::Token)
            .required()
            .event("token"),
        new("number")
            .with("min", Type::Uint(1))
            .default("0")
            .event("index:min")
            .with("max", Type::Uint(1))
            .default("255")
            .event("index:max"),
        new("kind")
            .with("is", word(&["initial", "joined"]))
            .required()
            .event("kind"),
        new("cause")
            .with(
                "any",
                Type::Set {
                    values: names(&["none", "synack", "fail"]),
                },
            )
            .event("fallback"),
        new("told")
            .with("in", list(Type::Prefix, 2, None))
            .event("announced")
            .with("port", list(Type::PortRange, 2, None))
            .event("announced_port")
            .with("echo", word(&["no", "yes", "any"]))
            .default("no")
            .event("echo"),
        new("from")
            .with("is", word(&["client", "server"]))
            .required()
            .event("sender")
            .with("of", word(&["connection", "subflow"]))
            .default("connection")
            .event("of"),
        new("carried")
            .with("min", Type::Bytes)
            .default("0")
            .event("subflow_bytes:min")
            .with("direction", word(&way))
            .default("both")
            .event("direction"),
        new("random"),
        module(Kind::Actor, "drop"),
    ]
}

pub(super) fn selection(expr: &Plain) -> Result<Selection, Vec<Diagnostic>> {
    let shared = br#"{ "version": 1, "selectors": { "web": { "to_port": { "in": [80, 443] } } } }"#;
    let policy = parse(&[Fragment {
        name: "p".to_owned(),
        bytes: shared.to_vec(),
    }]);
    let text = Fragment {
        name: "--select".to_owned(),
        bytes: expr.to_string().into_bytes(),
    };
    select(&text, &policy.unwrap(), &modules())
}

fn nothing(_: &Event) -> Result<Seen> {
    Ok(Seen::default())
}

/// Whether it takes an event of which the tracker knows nothing.
fn takes(expr: Plain, event: &Event) -> bool {
    selection(&expr).unwrap().takes(event, &nothing).unwrap()
}

fn refused(expr: Plain) -> String {
    let errors = selection(&expr).unwrap_err();
    let errors: Vec<_> = errors.iter().map(Diagnostic::to_string).collect();
    errors.join("\n")
}

/// 10.0.0.1:5001 to 10.0.0.2:40000, tokens 1 and 2, from the server.
#[test]
fn what_every_event_tells() {
    let event = add_addr();
    for (expr, so) in [
        (json!({ "net": { "in": ["10.0.0.0/24"] } }), true),
        (json!({ "net": { "in": ["10.0.0.2", "::/0"] } }), false),
        (
            json!({ "net": { "in": ["1.0.0.0/8", "2.0.0.0/8", "10.0.0.1"] } }),
            true,
        ),
        (json!({ "to_port": { "in": 40000 } }), true),
        (
            json!({ "to_port": { "in": [1, "3-9", "39999-40001"] } }),
            true,
        ),
        (
            json!({ "to_port": { "in": [1, "3-9", "39998-39999"] } }),
            false,
        ),
        (
            json!({ "ends": { "from": "10.0.0.1", "port": 5001 } }),
            true,
        ),
        (
            json!({ "ends": { "from": "10.0.0.2", "port": 40000 } }),
            false,
        ),
        (
            json!({ "ends": { "from": "10.0.0.2", "port": 40000, "either": true } }),
            true,
        ),
        (
            json!({ "ends": { "from": "10.0.0.2", "port": 5001, "either": true } }),
            false,
        ),
        (json!({ "conn": { "token": 1 } }), true),
        (json!({ "conn": { "token": 2 } }), true),
        (json!({ "not": { "conn": { "token": 3 } } }), true),
        (json!({ "from": { "is": "server" } }), true),
        (json!({ "from": { "is": "client" } }), false),
        (json!({ "all": [] }), true),
        (json!({ "any": [] }), false),
        (
            json!({ "any": [{ "use": "web" }, { "to_port": { "in": 40000 } }] }),
            true,
        ),
        (json!({ "use": "web" }), false),
    ] {
        assert_eq!(takes(expr.clone(), &event), so, "{expr}");
        if expr["conn"]["token"] != 3 {
            assert_eq!(takes(json!({ "not": expr }), &event), !so, "not {expr}");
        }
    }
}

#[test]
fn what_an_add_addr_tells() {
    let event = add_addr();
    let mut without_port = event.clone();
    let mut echo = event.clone();
    if let Detail::AddAddr { port, .. } = &mut without_port.detail {
        *port = None;
    }
    if let Detail::AddAddr { echo, .. } = &mut echo.detail {
        *echo = true;
    }
    for (params, [so, alone, echoed]) in [
        (json!({}), [true, true, false]),
        (json!({ "echo": "any" }), [true, true, true]),
        (json!({ "echo": "yes" }), [false, false, true]),
        (json!({ "in": ["fd00::/8"] }), [true, true, false]),
        (json!({ "in": ["10.0.0.0/8"] }), [false, false, false]),
        (json!({ "port": [8080] }), [true, false, false]),
    ] {
        let expr = json!({ "told": params });
        assert_eq!(takes(expr.clone(), &event), so, "{expr}");
        assert_eq!(takes(expr.clone(), &without_port), alone, "{expr}");
        assert_eq!(takes(expr.clone(), &echo), echoed, "{expr}");
        // An event of something else does not tell.
        assert!(!takes(expr.clone(), &subflow(0, 0)), "{expr}");
        assert!(!takes(json!({ "not": expr }), &subflow(0, 0)));
    }
}

#[test]
fn what_a_subflow_tells() {
    let (opened, closed) = (subflow(0, 0), subflow(1, 2));
    for event in [&opened, &closed] {
        assert!(takes(json!({ "kind": { "is": "joined" } }), event));
        assert!(takes(
            json!({ "not": { "kind": { "is": "initial" } } }),
            event
        ));
        assert!(takes(json!({ "number": { "min": 1, "max": 1 } }), event));
        assert!(!takes(json!({ "number": { "max": 0 } }), event));
    }
    // 4 of 5 bytes from the server, its source, and 6 from the client.
    let carried =
        |min: u64, direction: &str| json!({ "carried": { "min": min, "direction": direction } });
    for (most, direction) in [
        (10, "both"),
        (4, "down"),
        (6, "up"),
        (4, "packet"),
        (6, "reply"),
    ] {
        assert!(takes(carried(most, direction), &closed), "{direction}");
        assert!(!takes(carried(most + 1, direction), &closed), "{direction}");
        // Of one that has just begun the tracker would tell.
        assert!(!takes(carried(0, direction), &opened));
    }
    let mut unknown = closed.clone();
    unknown.side = None;
    assert!(takes(carried(4, "packet"), &unknown));
    assert!(!takes(carried(0, "up"), &unknown));
    // Where its connection is not known it has no number.
    unknown.client_token = None;
    assert!(!takes(json!({ "number": {} }), &unknown));
    // Who opened a later one is not told; who opened the first one opened the connection.
    let by = |who: &str| json!({ "from": { "is": who, "of": "subflow" } });
    assert!(!takes(by("client"), &closed) && !takes(by("server"), &closed));
    let mut first = closed.clone();
    first.side = Some(Side::Client);
    if let Detail::Subflow { kind, .. } = &mut first.detail {
        *kind = "initial";
    }
    assert!(takes(by("client"), &first));
}

/// What is not known makes neither it nor its opposite.
#[test]
fn what_is_not_known() {
    let mut event = add_addr();
    event.side = None;
    event.client_token = None;
    for expr in [
        json!({ "from": { "is": "client" } }),
        json!({ "kind": { "is": "joined" } }),
        json!({ "number": {} }),
        json!({ "cause": {} }),
        json!({ "cause": { "any": ["fail"] } }),
        // The server's token is another one, the client's is not known.
        json!({ "conn": { "token": 7 } }),
    ] {
        assert!(!takes(expr.clone(), &event), "{expr}");
        assert!(!takes(json!({ "not": expr }), &event), "not {expr}");
        let or = json!({ "any": [expr, { "to_port": { "in": 40000 } }] });
        assert!(takes(or, &event));
    }
    assert!(takes(json!({ "conn": { "token": 1 } }), &event));
}

#[test]
fn the_tracker_is_asked_once_and_where_it_must() {
    let looks = Cell::new(0);
    let look = |_: &Event| {
        looks.set(looks.get() + 1);
        let mut sub = crate::abi::TrackSubflow {
            kind: 1,
            fallback: 1,
            client: 1,
            opener: 1,
            ..Default::default()
        };
        sub.way[0].bytes = 7;
        Ok(Seen {
            subflow: Some((sub, 0)),
            connection: None,
        })
    };
    let event = add_addr();
    let asked = |expr: Plain, so: bool, times: u32| {
        looks.set(0);
        let taken = selection(&expr).unwrap().takes(&event, &look).unwrap();
        assert_eq!((taken, looks.get()), (so, times), "{expr}");
    };
    asked(json!({ "net": { "in": ["10.0.0.1"] } }), true, 0);
    let initial = json!({ "kind": { "is": "initial" } });
    asked(initial.clone(), true, 1);
    asked(
        json!({ "all": [initial, { "cause": { "any": ["synack"] } }, { "number": {} }] }),
        true,
        1,
    );
    asked(
        json!({ "all": [{ "to_port": { "in": 1 } }, initial] }),
        false,
        0,
    );
    asked(
        json!({ "from": { "is": "server", "of": "subflow" } }),
        true,
        1,
    );
    asked(
        json!({ "carried": { "min": 7, "direction": "packet" } }),
        true,
        1,
    );
    asked(
        json!({ "carried": { "min": 7, "direction": "up" } }),
        false,
        1,
    );
    let failing = |_: &Event| anyhow::bail!("no");
    assert!(
        selection(&initial)
            .unwrap()
            .takes(&event, &failing)
            .is_err()
    );
}

#[test]
fn what_takes_a_change_of_a_link() {
    for (expr, so) in [
        (json!({ "all": [] }), true),
        (json!({ "not": { "any": [] } }), true),
        (json!({ "to_port": { "in": 80 } }), false),
        (json!({ "not": { "to_port": { "in": 80 } } }), false),
    ] {
        assert_eq!(selection(&expr).unwrap().takes_anything(), so, "{expr}");
    }
}

#[test]
fn refusals() {
    let all =
        "events can be asked carried, cause, conn, ends, from, kind, net, number, to_port, told";
    for (expr, expected) in [
        (
            json!({ "all": [{ "random": {} }] }),
            format!("--select:1:10: all[0].random: no event tells what random looks at: {all}"),
        ),
        (
            json!({ "knd": {} }),
            "--select:1:2: knd: no selector is named \"knd\"; did you mean \"kind\"?".to_owned(),
        ),
        (
            json!({ "weather": {} }),
            format!("--select:1:2: weather: no selector is named \"weather\": {all}"),
        ),
        (
            json!({ "drop": {} }),
            "--select:1:2: drop: drop is an actor: a selector belongs here".to_owned(),
        ),
        (
            json!({ "net": { "in": ["10.0.0.1"], "depth": 3 } }),
            "no event tells what \"depth\" of net is about: leave it out".to_owned(),
        ),
        (
            json!({ "kind": { "is": "joind" } }),
            "expected \"initial\" or \"joined\", found \"joind\"; did you mean \"joined\"?"
                .to_owned(),
        ),
        (
            json!({ "use": "wib" }),
            "no shared selector is named \"wib\"; did you mean \"web\"?".to_owned(),
        ),
        (json!([]), "expected an expression".to_owned()),
    ] {
        let said = refused(expr.clone());
        assert!(said.contains(&expected), "{expr}: {said}");
    }
    let text = Fragment {
        name: "--select".to_owned(),
        bytes: b"{".to_vec(),
    };
    assert!(select(&text, &crate::policy::Policy::default(), &modules()).is_err());
}
