//! What programs ask for is done here.

use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::anyhow;
use clap::ValueEnum as _;
use serde_json::Value;
use serde_json::json;

use super::guard::Guard;
use super::peer::Peer;
use super::peer::Wants;
use crate::cli::inject;
use crate::cli::table::elements;
use crate::cli::table::entries_of;
use crate::cli::table::timeout_of;
use crate::datapath::OpenTable;
use crate::datapath::Tables as InForce;
use crate::datapath::boot_time;
use crate::event::Type;
use crate::exec::Answer;
use crate::exec::Command;
use crate::exec::Held;
use crate::exec::Owner;
use crate::exec::Place;
use crate::exec::Subscribe;
use crate::exec::Wishes;
use crate::frame::Opt;
use crate::frame::To;
use crate::table_text;

/// How often wishes are looked at that have expired with their entries.
const EXPIRY: Duration = Duration::from_secs(10);

/// What became of a command.
pub(super) enum Obedience {
    Answer(Answer),
    /// Somebody else changes the policy.
    Later(Command),
}

/// Who has put what into tables.
pub(super) struct Tables {
    wishes: Wishes,
    may_inject: bool,
    guard: Guard,
    /// Those who have gone, but whose entries are still there, and since when.
    leaving: BTreeSet<Owner>,
    left: Instant,
    /// When wishes are looked at that have expired.
    expiry: Instant,
}

/// The tables in force, locked while several commands are done.
pub(super) struct Locked<'t> {
    tables: &'t mut Tables,
    in_force: Lazy,
}

enum Lazy {
    Unknown,
    Busy,
    Open(InForce),
    /// There is no policy, or no privilege.
    Not(String),
}

impl Tables {
    /// `may_inject`: programs may send options, too.
    ///
    /// # Errors
    ///
    /// The guard cannot be started.
    pub(super) fn new(may_inject: bool) -> Result<Self> {
        Ok(Self {
            wishes: Wishes::default(),
            may_inject,
            guard: Guard::start()?,
            leaving: BTreeSet::new(),
            left: Instant::now(),
            expiry: Instant::now() + EXPIRY,
        })
    }

    /// Begins to do commands.
    pub(super) fn begin(&mut self) -> Locked<'_> {
        Locked {
            tables: self,
            in_force: Lazy::Unknown,
        }
    }

    /// Somebody has gone; how many entries of his are to be taken back.
    pub(super) fn leave(&mut self, owner: Owner) -> usize {
        let count = self.wishes.of(owner).len();
        if count > 0 {
            self.leaving.insert(owner);
            self.left = Instant::now();
        }
        count
    }

    /// When entries are to be taken back, or looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.leaving.is_empty() {
            true => Some(self.expiry),
            false => Some(self.left),
        }
    }

    /// Forgets what has expired in the kernel.
    pub(super) fn expire(&mut self, now: Instant) {
        if now < self.expiry {
            return;
        }
        self.expiry = now + EXPIRY;
        let Ok(time) = boot_time() else {
            return;
        };
        for place in self.wishes.expire(time) {
            self.note(&place, None);
        }
    }

    /// Tells the guard. A guard that has gone gets a successor, which is told all.
    fn note(&mut self, place: &Place, held: Option<&Held>) {
        if self.guard.tell(place, held).is_ok() {
            return;
        }
        let again = || -> Result<Guard> {
            let mut guard = Guard::start()?;
            for (place, held) in self.wishes.all() {
                guard.tell(place, Some(held))?;
            }
            guard.tell(place, held)?;
            Ok(guard)
        };
        match again() {
            Ok(guard) => {
                // It would take back what is to stay.
                self.guard.kill();
                self.guard = guard;
            }
            Err(error) => eprintln!("emptcp: {error:#}"),
        }
    }
}

impl Locked<'_> {
    /// Does a command.
    pub(super) fn obey(&mut self, peer: &mut Peer, command: Command) -> Obedience {
        let owner = peer.owner;
        let answer = match &command {
            Command::Ping {} => Ok(None),
            Command::Subscribe(subscribe) => {
                wants(subscribe).map(|wants| {
                    peer.wants = wants;
                    // All of them first.
                    peer.told = 0;
                    None
                })
            }
            Command::TableAdd {
                table,
                key,
                value,
                timeout,
            } => self.on(table, |tables, table| {
                tables.add(owner, table, (key, value.as_ref()), timeout.as_deref())?;
                Ok(None)
            }),
            Command::TableDel { table, key } => self.on(table, |tables, table| {
                tables.del(owner, table, key)?;
                Ok(None)
            }),
            Command::TableShow { table } => {
                self.on(table, |_, table| Ok(Some(("elements", elements(table)?))))
            }
            Command::Inject {
                subflow,
                zone,
                to,
                option,
            } => self.inject((subflow, *zone), *to, option),
            // These became entries when they were read.
            Command::Prio(_)
            | Command::Window(_)
            | Command::Pace(_)
            | Command::Hold(_)
            | Command::Release(_) => Err("expected an entry".to_owned()),
        };
        match (&self.in_force, command) {
            (
                Lazy::Busy,
                command @ (Command::TableAdd { .. }
                | Command::TableDel { .. }
                | Command::TableShow { .. }
                | Command::Inject { .. }),
            ) => Obedience::Later(command),
            _ => Obedience::Answer(answer),
        }
    }

    /// The lock, taken when it is needed first.
    fn lock(&mut self) {
        if matches!(self.in_force, Lazy::Unknown) {
            self.in_force = match InForce::try_lock() {
                Ok(Some(tables)) => Lazy::Open(tables),
                Ok(None) => Lazy::Busy,
                Err(error) => Lazy::Not(format!("{error:#}")),
            };
        }
    }

    /// Sends an option.
    fn inject(&mut self, (subflow, zone): (&str, u32), to: To, option: &Value) -> Answer {
        if !self.tables.may_inject {
            return Err("emptcp run was started without --allow-inject".to_owned());
        }
        self.lock();
        if matches!(self.in_force, Lazy::Busy) {
            return Err("the policy is being changed".to_owned());
        }
        // Who sends takes the lock as well.
        self.in_force = Lazy::Unknown;
        Opt::parse(&option.to_string())
            .and_then(|option| inject::at_once(subflow, zone, to, &option))
            .map(|frames| Some(("frames", frames.into())))
            .map_err(|error| format!("{error:#}"))
    }

    /// Does something with a table.
    fn on<T>(
        &mut self,
        name: &str,
        run: impl FnOnce(&mut Tables, &OpenTable) -> Result<T>,
    ) -> Result<T, String> {
        self.lock();
        let table = match &self.in_force {
            Lazy::Open(tables) => tables.open(name).map_err(|e| format!("{e:#}"))?,
            Lazy::Not(error) => return Err(error.clone()),
            Lazy::Busy | Lazy::Unknown => return Err("the policy is being changed".to_owned()),
        };
        run(self.tables, &table).map_err(|e| format!("{e:#}"))
    }

    /// Takes back what those have left who have gone; `false`: that must wait.
    pub(super) fn take_back(mut self) -> bool {
        if self.tables.leaving.is_empty() {
            return true;
        }
        self.lock();
        let in_force = match &self.in_force {
            Lazy::Busy | Lazy::Unknown => return false,
            Lazy::Open(tables) => Some(tables),
            // Nothing is left to be taken back.
            Lazy::Not(_) => None,
        };
        for owner in std::mem::take(&mut self.tables.leaving) {
            let mut open: Option<OpenTable> = None;
            for place in self.tables.wishes.of(owner) {
                if open
                    .as_ref()
                    .is_none_or(|table| table.name() != place.table)
                {
                    open = in_force.and_then(|tables| tables.open(&place.table).ok());
                }
                if let Err(error) = self.tables.take_one(owner, &place, open.as_ref()) {
                    eprintln!("emptcp: cannot take an entry back: {error:#}");
                }
            }
        }
        true
    }
}

impl Tables {
    fn add(
        &mut self,
        owner: Owner,
        table: &OpenTable,
        (key, value): (&Value, Option<&Value>),
        timeout: Option<&str>,
    ) -> Result<()> {
        let definition = table.definition();
        if definition.of_file {
            return Err(anyhow!(
                "the policy says what is in table {}: leave \"elements\" out there",
                table.name()
            ));
        }
        let value = value.map(word);
        let entries = entries_of(table, &word(key), value.as_deref())?;
        let timeout = timeout.map(timeout_of).transpose();
        let timeout = timeout.map_err(|error| anyhow!("timeout: {error}"))?;
        let until = match timeout.or(definition.timeout) {
            Some(lasts) => boot_time()?.saturating_add(lasts),
            None => u64::MAX,
        };
        for (key, value) in entries {
            let place = Place {
                table: table.name().to_owned(),
                key,
            };
            let before = match self.wishes.has(&place) {
                true => None,
                false => table.get(&place.key)?,
            };
            let ty = definition.value.as_ref();
            let wish = (&place, &value[..], until);
            let held = self.wishes.add(owner, wish, ty, before).clone();
            // First: who is told too early takes back nothing.
            self.note(&place, Some(&held));
            if let Err(error) = table.put(&[(place.key.clone(), held.written)], timeout) {
                self.wishes.remove(owner, &place, ty);
                return Err(error);
            }
        }
        Ok(())
    }

    fn del(&mut self, owner: Owner, table: &OpenTable, key: &Value) -> Result<()> {
        let keys = table_text::keys(
            table.definition().key,
            &word(key),
            &crate::policy::Place::root(""),
        );
        let mut found = false;
        for key in keys.map_err(|error| anyhow!(error.message))? {
            let place = Place {
                table: table.name().to_owned(),
                key,
            };
            found |= self.wishes.is_of(&place, owner);
            self.take_one(owner, &place, Some(table))?;
        }
        match found {
            true => Ok(()),
            false => Err(anyhow!("this program has put no such entry into the table")),
        }
    }

    /// Takes back what an owner wishes of an entry. `None`: there is no such table any more.
    fn take_one(&mut self, owner: Owner, place: &Place, table: Option<&OpenTable>) -> Result<()> {
        let ty = table.and_then(|table| table.definition().value.as_ref());
        let Some((old, new)) = self.wishes.remove(owner, place, ty) else {
            return Ok(());
        };
        let changed = match (table, &new) {
            (None, _) => Ok(()),
            (Some(table), None) => {
                let before = old.before.as_ref();
                let before = before.map(|(value, until)| (&value[..], *until));
                table.give_back(&place.key, &old.written, before)
            }
            (Some(_), Some(held)) if held.written == old.written => Ok(()),
            (Some(table), Some(held)) => {
                let entry = (place.key.clone(), held.written.clone());
                table.put(&[entry], None).map(drop)
            }
        };
        // Behind it: who is told too late takes back what is gone.
        self.note(place, new.as_ref());
        changed
    }
}

/// A key or value as a word, as on the command line.
fn word(json: &Value) -> String {
    match json {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn wants(subscribe: &Subscribe) -> Result<Wants, String> {
    let of_name = |name: &String| {
        Type::from_str(name, false).map_err(|_| {
            let known: Vec<String> = Type::value_variants().iter().map(|t| t.name()).collect();
            format!("unknown event {name:?}, expected one of {}", json!(known))
        })
    };
    Ok(Wants {
        events: subscribe
            .events
            .iter()
            .map(of_name)
            .collect::<Result<_, _>>()?,
        metrics: subscribe.metrics,
        changed_only: subscribe.changed_only,
        kernel: subscribe.kernel,
    })
}
