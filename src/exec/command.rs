//! What a program may ask for. To add a command: a variant of [`Command`], and its arm in
//! `cli::run::exec::obey`.

use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::frame::To;

/// A command, by its `"cmd"`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Command {
    /// Answers. With braces, or serde would take any fields.
    Ping {},
    /// Says what the program wants to be told, instead of what it wanted before.
    Subscribe(Subscribe),
    /// Writes an entry of a table.
    TableAdd {
        table: String,
        key: Value,
        value: Option<Value>,
        timeout: Option<String>,
    },
    /// Takes an entry back that this program has written.
    TableDel { table: String, key: Value },
    /// Tells the entries of a table.
    TableShow { table: String },
    /// An entry of the table `prio`.
    Prio(Lever),
    /// An entry of the table `window`.
    Window(Lever),
    /// An entry of the table `pace`.
    Pace(Lever),
    /// An entry of the table `hold`.
    Hold(Joins),
    /// Takes it back.
    Release(Joins),
    /// Sends an option at once, in a frame of its own.
    Inject {
        subflow: String,
        #[serde(default)]
        zone: u32,
        to: To,
        option: Value,
    },
}

/// What a program wants to be told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscribe {
    /// Types of events.
    #[serde(default)]
    pub(crate) events: Vec<String>,
    /// Subflows, once in each interval.
    #[serde(default)]
    pub(crate) metrics: bool,
    /// Of these only what has changed.
    #[serde(default = "yes")]
    pub(crate) changed_only: bool,
    /// With what the kernel knows of sockets of this host.
    #[serde(default = "yes")]
    pub(crate) kernel: bool,
}

/// A value for a subflow in a table of subflows; `null` takes it back.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lever {
    subflow: String,
    value: Value,
    table: Option<String>,
}

/// A connection in a table of tokens: whether its joins are held.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Joins {
    token: Value,
    table: Option<String>,
}

fn yes() -> bool {
    true
}

impl Lever {
    fn entry(self, table: &str) -> Command {
        let table = self.table.unwrap_or_else(|| table.to_owned());
        let key = self.subflow.into();
        match self.value {
            Value::Null => Command::TableDel { table, key },
            value => Command::TableAdd {
                table,
                key,
                value: Some(value),
                timeout: None,
            },
        }
    }
}

impl Joins {
    fn entry(self, is_held: bool) -> Command {
        let table = self.table.unwrap_or_else(|| "hold".to_owned());
        let key = self.token;
        match is_held {
            false => Command::TableDel { table, key },
            true => Command::TableAdd {
                table,
                key,
                value: None,
                timeout: None,
            },
        }
    }
}

/// A line of a program: the id that the answer is to have, and the command.
///
/// # Errors
///
/// The line is not JSON, or no command; with the id, where there is one.
pub(crate) fn parse(line: &[u8]) -> Result<(Value, Command), (Value, String)> {
    let not = |error: serde_json::Error| format!("expected a command as JSON in one line: {error}");
    let mut json: Value = serde_json::from_slice(line).map_err(|e| (Value::Null, not(e)))?;
    let Some(object) = json.as_object_mut() else {
        let message = "expected an object, such as {\"id\": 1, \"cmd\": \"ping\"}";
        return Err((Value::Null, message.to_owned()));
    };
    let id = object.remove("id").unwrap_or_default();
    let command = Command::deserialize(json).map_err(|e| (id.clone(), e.to_string()))?;
    let command = match command {
        Command::Prio(lever) => lever.entry("prio"),
        Command::Window(lever) => lever.entry("window"),
        Command::Pace(lever) => lever.entry("pace"),
        Command::Hold(joins) => joins.entry(true),
        Command::Release(joins) => joins.entry(false),
        command => command,
    };
    Ok((id, command))
}

/// What came of a command: what the answer says beside `ok`, or why it was not done.
pub(crate) type Answer = Result<Option<(&'static str, Value)>, String>;

/// The line of an answer.
pub(crate) fn line(id: &Value, answer: Answer) -> String {
    let mut json = match answer {
        Ok(None) => json!({ "id": id, "ok": true }),
        Ok(Some((name, value))) => json!({ "id": id, "ok": true, name: value }),
        Err(error) => json!({ "id": id, "error": error }),
    }
    .to_string();
    json.push('\n');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Command, String> {
        parse(line.as_bytes())
            .map(|(_, c)| c)
            .map_err(|(_, error)| error)
    }

    #[test]
    fn commands() {
        assert_eq!(one(r#"{"cmd": "ping", "id": 1}"#), Ok(Command::Ping {}));
        let add = Command::TableAdd {
            table: "slow".to_owned(),
            key: json!("10.0.0.1"),
            value: Some(json!(5)),
            timeout: Some("10s".to_owned()),
        };
        let line =
            r#"{"cmd":"table_add","table":"slow","key":"10.0.0.1","value":5,"timeout":"10s"}"#;
        assert_eq!(one(line), Ok(add));
        let subscribe = Subscribe {
            events: vec!["prio".to_owned()],
            changed_only: true,
            kernel: true,
            ..Subscribe::default()
        };
        let line = r#"{"cmd":"subscribe","events":["prio"]}"#;
        assert_eq!(one(line), Ok(Command::Subscribe(subscribe)));
    }

    #[test]
    fn levers_are_entries() {
        let line = r#"{"cmd":"window","subflow":"a","value":"64KiB"}"#;
        let Ok(Command::TableAdd { table, key, .. }) = one(line) else {
            panic!("no entry");
        };
        assert_eq!((table.as_str(), key), ("window", json!("a")));
        let line = r#"{"cmd":"prio","subflow":"a","value":null,"table":"t"}"#;
        let del = Command::TableDel {
            table: "t".to_owned(),
            key: json!("a"),
        };
        assert_eq!(one(line), Ok(del));
    }

    #[test]
    fn joins_are_entries() {
        let add = Command::TableAdd {
            table: "hold".to_owned(),
            key: json!("0x1a2b3c4d"),
            value: None,
            timeout: None,
        };
        assert_eq!(one(r#"{"cmd":"hold","token":"0x1a2b3c4d"}"#), Ok(add));
        let del = Command::TableDel {
            table: "t".to_owned(),
            key: json!(7),
        };
        assert_eq!(one(r#"{"cmd":"release","token":7,"table":"t"}"#), Ok(del));
    }

    #[test]
    fn an_injection_names_who_gets_it() {
        let inject = Command::Inject {
            subflow: "a".to_owned(),
            zone: 0,
            to: To::Server,
            option: json!({ "option": "mp_prio" }),
        };
        let line = r#"{"cmd":"inject","subflow":"a","to":"server","option":{"option":"mp_prio"}}"#;
        assert_eq!(one(line), Ok(inject));
    }

    #[test]
    fn what_is_no_command_says_so() {
        for (line, word) in [
            ("{", "JSON"),
            ("[]", "an object"),
            (r#"{"id":1}"#, "cmd"),
            (r#"{"cmd":"pong"}"#, "ping"),
            (r#"{"cmd":"ping","to":1}"#, "to"),
            (r#"{"cmd":"table_del","table":"t"}"#, "key"),
            (r#"{"cmd":"table_show","table":"t","tabel":1}"#, "tabel"),
            (
                r#"{"cmd":"prio","subflow":"a","value":1,"tables":1}"#,
                "tables",
            ),
            (r#"{"cmd":"subscribe","metric":true}"#, "metric"),
            (r#"{"cmd":"hold","subflow":"a"}"#, "subflow"),
            (r#"{"cmd":"inject","subflow":"a","option":{}}"#, "to"),
            (
                r#"{"cmd":"inject","subflow":"a","to":"me","option":{}}"#,
                "both",
            ),
        ] {
            let error = one(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
        let (id, _) = parse(br#"{"id":[7],"cmd":"x"}"#).unwrap_err();
        assert_eq!(id, json!([7]));
    }

    #[test]
    fn answers() {
        assert_eq!(line(&json!(1), Ok(None)), "{\"id\":1,\"ok\":true}\n");
        let error = line(&Value::Null, Err("no".to_owned()));
        assert_eq!(error, "{\"id\":null,\"error\":\"no\"}\n");
        let more = line(&json!("a"), Ok(Some(("elements", json!([])))));
        assert_eq!(more, "{\"id\":\"a\",\"ok\":true,\"elements\":[]}\n");
    }
}
