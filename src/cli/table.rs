//! `emptcp table`

use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Done;
use super::print_errors;
use super::print_json;
use super::status;
use crate::datapath::Lock;
use crate::datapath::OpenTable;
use crate::datapath::Put;
use crate::datapath::interfaces;
use crate::datapath::open_table;
use crate::datapath::open_tables;
use crate::interface::Interfaces;
use crate::module::Type;
use crate::params::Entry;
use crate::params::literal;
use crate::policy::Diagnostic;
use crate::policy::Place;
use crate::policy::quantity;
use crate::policy::table_key_name;
use crate::policy::value_type_name;
use crate::table::Definition;
use crate::table_text;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// List the tables with the number of their entries.
    List,
    /// Print the entries of a table, as load reads them.
    Show {
        /// The table.
        name: String,
    },
    /// Write an entry; one that is there gets the new value, and its time begins anew.
    Add {
        /// The table.
        name: String,
        /// The key, as in the policy.
        key: String,
        /// The value, where the table has values.
        #[arg(allow_hyphen_values = true)]
        value: Option<String>,
        /// How long the entry lasts, instead of the table's timeout.
        #[arg(long, value_name = "TIME")]
        timeout: Option<String>,
    },
    /// Remove an entry.
    Del {
        /// The table.
        name: String,
        /// The key.
        key: String,
    },
    /// Remove all entries.
    Flush {
        /// The table.
        name: String,
    },
    /// Write the entries of a file: all, or none if one is wrong or they do not fit.
    Load {
        /// The table.
        name: String,
        /// JSON as "elements" in a policy, or lines KEY [VALUE]; - is standard input.
        file: PathBuf,
        /// How long the entries last, instead of the table's timeout.
        #[arg(long, value_name = "TIME")]
        timeout: Option<String>,
    },
}

pub(super) fn run(json: bool, verb: &Verb) -> Result<Done> {
    match verb {
        Verb::List => list(json),
        Verb::Show { name } => show(json, name),
        Verb::Add {
            name,
            key,
            value,
            timeout,
        } => {
            let table = open_table(name, Lock::Exclusive)?;
            let entries = entries_of(&table, key, value.as_deref())?;
            put(json, &table, &entries, timeout.as_deref())
        }
        Verb::Del { name, key } => {
            let table = open_table(name, Lock::Exclusive)?;
            let keys = table_text::keys(table.definition().key, key, &Place::root(""));
            let keys = keys.map_err(|error| first(&[error]))?;
            let mut removed = 0;
            for key in &keys {
                removed += usize::from(table.delete(key)?);
            }
            if removed == 0 && !json {
                eprintln!("emptcp: table {name} has no entry {key}");
            }
            removed_from(json, &table, removed)
        }
        Verb::Flush { name } => {
            let table = open_table(name, Lock::Exclusive)?;
            removed_from(json, &table, table.flush()?)
        }
        Verb::Load {
            name,
            file,
            timeout,
        } => {
            // What its entries look like; the file may take long, so without the lock.
            let definition = open_table(name, Lock::Shared)?.definition().clone();
            let bytes = read_file(file)?;
            let path = file.display().to_string();
            let parsed = table_text::parse(&path, &bytes, &definition, &resolver(&definition)?);
            let entries = match parsed {
                Ok(entries) => entries,
                Err(errors) => return print_errors(json, &errors),
            };
            let table = open_table(name, Lock::Exclusive)?;
            if !table.definition().takes_entries_of(&definition) {
                return Err(anyhow!("table {name} was changed meanwhile: try again"));
            }
            put(json, &table, &entries, timeout.as_deref())
        }
    }
}

/// The entries for a key and a value, each as a word.
///
/// # Errors
///
/// What is wrong with them.
pub(super) fn entries_of(table: &OpenTable, key: &str, value: Option<&str>) -> Result<Vec<Entry>> {
    let at = Place::root("");
    let definition = table.definition();
    let value = value.map(|value| (value, &at));
    let entries = table_text::entries(definition, (key, &at), value, &resolver(definition)?);
    entries.map_err(|errors| first(&errors))
}

/// How long entries last, of a word, in nanoseconds.
///
/// # Errors
///
/// It is no time.
pub(super) fn timeout_of(text: &str) -> Result<u64> {
    let time = quantity::time(&literal(text, &Place::root("")));
    time.map_err(|error| anyhow!(error.message))
}

/// The entries of a table, as `elements` in a policy.
///
/// # Errors
///
/// The kernel's.
pub(super) fn elements(table: &OpenTable) -> Result<Value> {
    let definition = table.definition();
    let mut entries = table.entries()?;
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let entries: Vec<Entry> = entries.into_iter().map(|e| (e.key, e.value)).collect();
    Ok(table_text::to_elements(
        definition,
        &entries,
        &resolver(definition)?,
    ))
}

fn first(errors: &[Diagnostic]) -> anyhow::Error {
    anyhow!(
        errors
            .first()
            .map(|error| error.message.clone())
            .unwrap_or_default()
    )
}

/// The interfaces, where values are such.
fn resolver(definition: &Definition) -> Result<Interfaces> {
    match definition.value {
        Some(Type::Interface) => interfaces(),
        _ => Ok(Interfaces::default()),
    }
}

fn read_file(path: &PathBuf) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let what = || format!("cannot read {}", path.display());
    if path.as_os_str() == "-" {
        std::io::stdin()
            .read_to_end(&mut bytes)
            .with_context(what)?;
    } else {
        let mut file = File::open(path).with_context(what)?;
        file.read_to_end(&mut bytes).with_context(what)?;
    }
    Ok(bytes)
}

fn put(json: bool, table: &OpenTable, entries: &[Entry], timeout: Option<&str>) -> Result<Done> {
    let timeout = timeout.map(timeout_of).transpose();
    let timeout = timeout.map_err(|error| anyhow!("--timeout: {error}"))?;
    let Put { added, updated } = table.put(entries, timeout)?;
    note_drift(table);
    if json {
        print_json(&json!({ "added": added, "updated": updated }))?;
    }
    Ok(Done::Yes)
}

fn removed_from(json: bool, table: &OpenTable, removed: usize) -> Result<Done> {
    if removed > 0 {
        note_drift(table);
    }
    if json {
        print_json(&json!({ "removed": removed }))?;
    }
    Ok(Done::Yes)
}

fn note_drift(table: &OpenTable) {
    if table.definition().of_file {
        eprintln!(
            "emptcp: the policy says what is in table {}: the next apply undoes this",
            table.name()
        );
    }
}

fn list(json: bool) -> Result<Done> {
    let tables = open_tables()?;
    if json {
        let mut all = Vec::new();
        for table in &tables {
            let entries = table.entries()?.len();
            all.push(describe(table, "entries", json!(entries)));
        }
        print_json(&all)?;
        return Ok(Done::Yes);
    }
    let mut out = status::table(
        &[
            "NAME", "TYPE", "VALUE", "ENTRIES", "SIZE", "TIMEOUT", "CONTENTS",
        ],
        &[3, 4],
    );
    for table in &tables {
        let definition = table.definition();
        let value = definition.value.as_ref().and_then(value_type_name);
        out.add_row([
            table.name().to_owned(),
            table_key_name(definition.key).to_owned(),
            value.unwrap_or("-").to_owned(),
            table.entries()?.len().to_string(),
            definition.size.to_string(),
            definition.timeout.map_or("-".to_owned(), text_of_time),
            if definition.of_file {
                "policy"
            } else {
                "run time"
            }
            .to_owned(),
        ]);
    }
    status::print_table(&out);
    Ok(Done::Yes)
}

/// A table as JSON, with one more member.
fn describe(table: &OpenTable, key: &str, value: Value) -> Value {
    let mut object = Map::from_iter([("name".to_owned(), json!(table.name()))]);
    if let Value::Object(definition) = table.definition().to_json() {
        object.extend(definition);
    }
    object.insert("of_policy".to_owned(), json!(table.definition().of_file));
    object.insert(key.to_owned(), value);
    Value::Object(object)
}

fn text_of_time(nanoseconds: u64) -> String {
    let shown = quantity::show_time(nanoseconds);
    shown.as_str().unwrap_or_default().to_owned()
}

fn show(json: bool, name: &str) -> Result<Done> {
    let table = open_table(name, Lock::Shared)?;
    let definition = table.definition();
    let interfaces = resolver(definition)?;
    let mut entries = table.entries()?;
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    if json {
        let mut elements = Vec::new();
        let mut left = Map::new();
        for entry in &entries {
            elements.push((entry.key.clone(), entry.value.clone()));
            if let Some(time) = entry.left {
                let key = table_text::show_key(definition.key, &entry.key);
                left.insert(key, json!(time / 1_000_000));
            }
        }
        let shown = table_text::to_elements(definition, &elements, &interfaces);
        let mut object = describe(&table, "elements", shown);
        if definition.timeout.is_some() {
            object["milliseconds_left"] = Value::Object(left);
        }
        print_json(&object)?;
        return Ok(Done::Yes);
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for entry in &entries {
        write!(out, "{}", table_text::show_key(definition.key, &entry.key))?;
        match table_text::show_value(definition, &entry.value, &interfaces) {
            Some(Value::String(text)) => write!(out, " {text}")?,
            Some(other) => write!(out, " {other}")?,
            None => {}
        }
        if let Some(left) = entry.left {
            // A comment, so that load reads it.
            write!(out, " # {}s left", left / 1_000_000_000)?;
        }
        writeln!(out)?;
    }
    out.flush()?;
    Ok(Done::Yes)
}
