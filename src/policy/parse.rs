//! Fragments to a policy.

use std::collections::HashMap;
use std::collections::HashSet;

use super::names::TABLE_KEYS;
use super::names::VALUE_TYPES;
use super::*;

/// Parses fragments into one policy; their order decides among chains of equal priority.
///
/// # Errors
///
/// All that is wrong, sorted by place; of a fragment that is not JSON the first place only.
pub fn parse(fragments: &[Fragment]) -> Result<Policy, Vec<Diagnostic>> {
    let mut parser = Parser::default();
    for fragment in fragments {
        match read(&fragment.name, &fragment.bytes) {
            Ok((json, duplicates)) => {
                parser.errors.extend(duplicates);
                parser.document(&json);
            }
            Err(error) => parser.errors.push(error),
        }
    }
    parser.finish()
}

/// Parses an expression that stands alone, as `select` of a chain.
///
/// # Errors
///
/// All that is wrong, sorted by place.
pub(crate) fn parse_expr(text: &Fragment) -> Result<Expr, Vec<Diagnostic>> {
    let (json, duplicates) = read(&text.name, &text.bytes).map_err(|error| vec![error])?;
    let mut parser = Parser {
        errors: duplicates,
        ..Parser::default()
    };
    let expr = parser.expr(&json, 1);
    match expr {
        Some(expr) if parser.errors.is_empty() => Ok(expr),
        _ => {
            parser.errors.sort();
            Err(parser.errors)
        }
    }
}

/// Parses a policy, and a file that holds one chain more, as it stands in `chains`.
/// `replaced`: the chain whose place it takes; it has the same name.
pub(super) fn parse_with_chain(
    policy: &Fragment,
    chain: &Fragment,
    replaced: Option<&str>,
) -> Result<Policy, Vec<Diagnostic>> {
    let mut parser = Parser::default();
    let (json, duplicates) = read(&policy.name, &policy.bytes).map_err(|e| vec![e])?;
    parser.errors.extend(duplicates);
    parser.document(&json);
    let mut place = parser.policy.chains.len();
    if let Some(name) = replaced {
        parser.defined.remove(&("chain", name.to_owned()));
        if let Some(index) = parser.policy.chains.iter().position(|c| *c.name == name) {
            parser.policy.chains.remove(index);
            place = index;
        }
    }
    let (json, duplicates) = read(&chain.name, &chain.bytes).map_err(|e| vec![e])?;
    parser.errors.extend(duplicates);
    let others = parser.policy.chains.len();
    parser.chain(&json);
    if parser.policy.chains.len() > others
        && let Some(chain) = parser.policy.chains.pop()
    {
        if let Some(name) = replaced.filter(|name| *chain.name != **name) {
            let expected = format!("{name:?}, the chain that is replaced");
            let found = quoted(&chain.name);
            let error = Diagnostic::expected(&chain.name.at, expected, found);
            parser.errors.push(error);
        }
        parser.policy.chains.insert(place, chain);
    }
    parser.finish()
}

pub(crate) const FIELDS: [&str; 9] = [
    "version",
    "$schema",
    "comment",
    "limits",
    "track",
    "tables",
    "selectors",
    "actors",
    "chains",
];
pub(crate) const TABLE_FIELDS: [&str; 7] = [
    "comment", "type", "value", "size", "timeout", "default", "elements",
];
pub(crate) const CHAIN_FIELDS: [&str; 13] = [
    "name",
    "comment",
    "hook",
    "interfaces",
    "priority",
    "enabled",
    "while_up",
    "zone",
    "on_error",
    "xdp",
    "position",
    "select",
    "act",
];
const OPERATORS: [&str; 4] = ["all", "any", "not", "use"];

const NAME: &str = "a name of 1 to 63 characters of a-z, 0-9, _ and -";

#[derive(Default)]
struct Parser {
    policy: Policy,
    errors: Vec<Diagnostic>,
    /// Where each name was defined, by what it names.
    defined: HashMap<(&'static str, String), Place>,
}

impl Parser {
    fn finish(mut self) -> Result<Policy, Vec<Diagnostic>> {
        self.policy
            .limits
            .sort_by_key(|(key, _)| LIMITS.iter().position(|(name, _)| name == key));
        self.errors.extend(resolve::check(&self.policy));
        if self.errors.is_empty() {
            Ok(self.policy)
        } else {
            self.errors.sort();
            Err(self.errors)
        }
    }

    fn wrong(&mut self, json: &Json, expected: impl Into<String>) {
        self.errors
            .push(Diagnostic::expected(&json.at, expected, json.found()));
    }

    /// Keeps a value, or the reason why there is none.
    fn keep<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    fn object<'a>(&mut self, json: &'a Json, what: &str) -> Option<&'a [Member]> {
        let members = json.as_object();
        if members.is_none() {
            self.wrong(json, what);
        }
        members
    }

    fn array<'a>(&mut self, json: &'a Json, what: &str) -> Option<&'a [Json]> {
        let items = json.as_array();
        if items.is_none() {
            self.wrong(json, what);
        }
        items
    }

    fn string(&mut self, json: &Json) -> Option<String> {
        let text = json.as_str().map(str::to_owned);
        if text.is_none() {
            self.wrong(json, "a string");
        }
        text
    }

    fn bool(&mut self, json: &Json) -> Option<bool> {
        match json.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong(json, "true or false");
                None
            }
        }
    }

    fn u32(&mut self, json: &Json, least: u32) -> Option<Spanned<u32>> {
        let value = quantity::uint(json, 4)
            .ok()
            .and_then(|n| u32::try_from(n).ok());
        let value = value.filter(|n| *n >= least && matches!(json.value, Value::Number(_)));
        match value {
            Some(value) => Some(Spanned::new(value, json.at.clone())),
            None => {
                self.wrong(json, format!("a number from {least} to {}", u32::MAX));
                None
            }
        }
    }

    /// One of several words.
    fn word<T: Clone>(&mut self, json: &Json, words: &[(&str, T)]) -> Option<T> {
        let found = json
            .as_str()
            .and_then(|text| words.iter().find(|(word, _)| *word == text));
        if found.is_none() {
            let names = || words.iter().map(|(word, _)| *word);
            let error = Diagnostic::expected(&json.at, one_of(names()), json.found());
            self.errors
                .push(error.suggest_nearest(json.as_str().unwrap_or_default(), names()));
        }
        found.map(|(_, value)| value.clone())
    }

    fn unknown(&mut self, member: &Member, what: &str, known: &[&str]) {
        let message = format!("unknown {what} {}", quoted(&member.key));
        let error = Diagnostic::new(&member.key_at(), message);
        self.errors
            .push(error.suggest_nearest(&member.key, known.iter().copied()));
    }

    fn missing(&mut self, json: &Json, field: &str) {
        self.errors.push(Diagnostic::new(
            &json.at,
            format!("the field {field:?} is missing"),
        ));
    }

    /// Checks a name; it must be the only one of its kind.
    fn define(&mut self, what: &'static str, name: &str, at: &Place) -> Option<Spanned<String>> {
        if !is_name(name) {
            self.errors
                .push(Diagnostic::expected(at, NAME, quoted(name)));
            return None;
        }
        if let Some(first) = self.defined.get(&(what, name.to_owned())) {
            let message = format!("the {what} {name:?} is defined twice: first at {first}");
            self.errors.push(Diagnostic::new(at, message));
            return None;
        }
        self.defined.insert((what, name.to_owned()), at.clone());
        Some(Spanned::new(name.to_owned(), at.clone()))
    }

    fn document(&mut self, json: &Json) {
        let Some(members) = self.object(json, "a JSON object") else {
            return;
        };
        for member in members {
            let value = &member.value;
            match &*member.key {
                "version" => self.version(value),
                "$schema" => {
                    let schema = self.string(value);
                    self.policy.schema = self.policy.schema.take().or(schema);
                }
                "comment" => {
                    if let Some(comment) = self.string(value) {
                        self.policy.comment = match self.policy.comment.take() {
                            Some(earlier) => Some(format!("{earlier}\n{comment}")),
                            None => Some(comment),
                        };
                    }
                }
                "limits" => self.limits(value),
                "track" => {
                    for pattern in self.interfaces(value).into_iter().flatten() {
                        // Another fragment may have it too.
                        if !self.policy.track.contains(&pattern) {
                            self.policy.track.push(pattern);
                        }
                    }
                }
                "tables" => {
                    for member in self
                        .object(value, "an object of name to table")
                        .into_iter()
                        .flatten()
                    {
                        self.table(member);
                    }
                }
                "selectors" => {
                    let members = self.object(value, "an object of name to expression");
                    for member in members.into_iter().flatten() {
                        let name = self.define("selector", &member.key, &member.key_at());
                        let expr = self.expr(&member.value, 1);
                        if let (Some(name), Some(expr)) = (name, expr) {
                            self.policy.selectors.push(SharedSelector { name, expr });
                        }
                    }
                }
                "actors" => {
                    let members = self.object(value, "an object of name to list of actors");
                    for member in members.into_iter().flatten() {
                        let name = self.define("list of actors", &member.key, &member.key_at());
                        let act = self.acts(&member.value);
                        if let (Some(name), Some(act)) = (name, act) {
                            self.policy.actors.push(SharedActors { name, act });
                        }
                    }
                }
                "chains" => {
                    for chain in self
                        .array(value, "an array of chains")
                        .into_iter()
                        .flatten()
                    {
                        self.chain(chain);
                    }
                }
                _ => self.unknown(member, "field", &FIELDS),
            }
        }
        if json.get("version").is_none() {
            self.missing(json, "version");
        }
    }

    fn version(&mut self, json: &Json) {
        match &json.value {
            Value::Number(number) if number.as_u64() == Some(VERSION) => {}
            Value::Number(_) => {
                let message = format!(
                    "version {} of the format is unknown: this program reads version {VERSION}",
                    json.found()
                );
                self.errors.push(Diagnostic::new(&json.at, message));
            }
            _ => self.wrong(json, "the number 1"),
        }
    }

    fn limits(&mut self, json: &Json) {
        let names: Vec<&str> = LIMITS.iter().map(|(name, _)| *name).collect();
        for member in self
            .object(json, "an object of limits")
            .into_iter()
            .flatten()
        {
            let Some(name) = names.iter().find(|name| **name == &*member.key) else {
                self.unknown(member, "limit", &names);
                continue;
            };
            let value = self.u32(&member.value, 1);
            let defined = self.define("limit", name, &member.key_at());
            if let (Some(value), Some(_)) = (value, defined) {
                self.policy.limits.push((name, value));
            }
        }
    }

    fn table(&mut self, member: &Member) {
        let name = self.define("table", &member.key, &member.key_at());
        let json = &member.value;
        let Some(members) = self.object(json, "a table: an object with \"type\"") else {
            return;
        };
        let (mut comment, mut key, mut value) = (None, None, None);
        let (mut size, mut timeout, mut default, mut elements) = (None, None, None, None);
        for member in members {
            let json = &member.value;
            let at = || json.at.clone();
            match &*member.key {
                "comment" => comment = self.string(json),
                "type" => key = self.word(json, &TABLE_KEYS).map(|k| Spanned::new(k, at())),
                "value" => value = self.word(json, &VALUE_TYPES).map(|t| Spanned::new(t, at())),
                "size" => size = self.u32(json, 1),
                "timeout" => timeout = self.timeout(json),
                "default" => default = Some(json.clone()),
                "elements" => elements = Some(json.clone()),
                _ => self.unknown(member, "field", &TABLE_FIELDS),
            }
        }
        if json.get("type").is_none() {
            self.missing(json, "type");
        }
        // Of a value of unknown type nothing can be said.
        let is_map = json.get("value").is_some();
        if let Some(default) = default.as_ref().filter(|_| !is_map) {
            let message = "a default needs the type of the values: the field \"value\" is missing";
            self.errors.push(Diagnostic::new(&default.at, message));
        }
        if let Some(elements) = &elements {
            self.elements(elements, is_map, size.as_ref());
            if let Some(timeout) = &timeout {
                let message = "a table with elements belongs to the file and forgets none: \
                               it has no timeout";
                self.errors.push(Diagnostic::new(&timeout.at, message));
            }
        }
        if let (Some(name), Some(key)) = (name, key) {
            let table = Table {
                name,
                comment,
                key,
                value,
                size,
                timeout,
                default,
                elements,
            };
            self.policy.tables.push(table);
        }
    }

    fn timeout(&mut self, json: &Json) -> Option<Spanned<u64>> {
        let timeout = self.keep(quantity::time(json))?;
        if timeout == 0 {
            self.wrong(json, "a time longer than 0");
            return None;
        }
        Some(Spanned::new(timeout, json.at.clone()))
    }

    /// The shape only: the keys and values are checked with the steps.
    fn elements(&mut self, json: &Json, is_map: bool, size: Option<&Spanned<u32>>) {
        let count = match (&json.value, is_map) {
            (Value::Array(items), false) => items.len(),
            (Value::Object(members), true) => members.len(),
            (_, false) => return self.wrong(json, "an array of keys"),
            (_, true) => return self.wrong(json, "an object of key to value"),
        };
        if let Some(size) = size.filter(|size| count > size.value as usize) {
            let message = format!("{count} elements do not fit in the size {}", size.value);
            self.errors.push(Diagnostic::new(&json.at, message));
        }
    }

    fn chain(&mut self, json: &Json) {
        let what = "a chain: an object with \"name\", \"hook\", \"interfaces\" and \"act\"";
        let Some(members) = self.object(json, what) else {
            return;
        };
        let (mut name, mut comment, mut hooks, mut interfaces) = (None, None, None, None);
        let mut priority = Spanned::new(0, json.at.clone());
        let (mut enabled, mut zone, mut on_error) = (true, 0, OnError::default());
        let (mut xdp, mut position) = (XdpOptions::default(), Position::default());
        let (mut select, mut act, mut while_up) = (None, None, None);
        for member in members {
            let json = &member.value;
            match &*member.key {
                "name" => {
                    if let Some(text) = self.string(json) {
                        name = self.define("chain", &text, &json.at);
                    }
                }
                "comment" => comment = self.string(json),
                "hook" => hooks = self.hooks(json),
                "interfaces" => interfaces = self.interfaces(json),
                "priority" => {
                    if let Some(value) = self.keep(quantity::int(json, 4)) {
                        let value = i32::try_from(value).unwrap_or_default();
                        priority = Spanned::new(value, json.at.clone());
                    }
                }
                "enabled" => enabled = self.bool(json).unwrap_or_default(),
                "while_up" => while_up = self.interfaces(json),
                "zone" => zone = self.u32(json, 0).map_or(0, |zone| zone.value),
                "on_error" => {
                    let words = [("pass", OnError::Pass), ("drop", OnError::Drop)];
                    on_error = self.word(json, &words).unwrap_or_default();
                }
                "xdp" => xdp = self.xdp(json),
                "position" => position = self.position(json).unwrap_or_default(),
                "select" => {
                    if json.as_object().is_none_or(|members| !members.is_empty()) {
                        select = self.expr(json, 1);
                    }
                }
                "act" => act = self.acts(json),
                _ => self.unknown(member, "field", &CHAIN_FIELDS),
            }
        }
        for field in ["name", "hook", "interfaces", "act"] {
            if json.get(field).is_none() {
                self.missing(json, field);
            }
        }
        if let Some(hooks) = &hooks {
            self.check_hooks(json, hooks);
        }
        if let (Some(name), Some(hooks), Some(interfaces), Some(act)) =
            (name, hooks, interfaces, act)
        {
            self.policy.chains.push(Chain {
                name,
                comment,
                hooks,
                interfaces,
                priority,
                enabled,
                while_up: while_up.unwrap_or_default(),
                zone,
                on_error,
                xdp,
                position,
                select,
                act,
            });
        }
    }

    /// Fields that have a meaning at some hooks only.
    fn check_hooks(&mut self, chain: &Json, hooks: &[Spanned<Hook>]) {
        let at_xdp = |hook: &Spanned<Hook>| hook.value == Hook::Xdp;
        let members = chain.as_object().unwrap_or_default();
        for member in members {
            let message = match &*member.key {
                "xdp" if !hooks.iter().any(at_xdp) => "the chain is not at the hook xdp",
                "position" if hooks.iter().all(at_xdp) => {
                    "a position needs a hook of tc: xdp has one place"
                }
                _ => continue,
            };
            self.errors.push(Diagnostic::new(&member.key_at(), message));
        }
    }

    fn hooks(&mut self, json: &Json) -> Option<Vec<Spanned<Hook>>> {
        let words = Hook::ALL.map(|hook| (hook.name(), hook));
        let items = match json.as_array() {
            Some([]) => {
                self.wrong(json, "at least one hook");
                return None;
            }
            Some(items) => items,
            None => std::slice::from_ref(json),
        };
        let mut hooks: Vec<Spanned<Hook>> = Vec::new();
        let mut complete = true;
        for item in items {
            match self.word(item, &words) {
                Some(hook) if hooks.iter().any(|h| h.value == hook) => {
                    let message = format!("the hook {hook} is given twice");
                    self.errors.push(Diagnostic::new(&item.at, message));
                }
                Some(hook) => hooks.push(Spanned::new(hook, item.at.clone())),
                None => complete = false,
            }
        }
        complete.then_some(hooks)
    }

    fn interfaces(&mut self, json: &Json) -> Option<Vec<InterfacePattern>> {
        let what = "an array of interfaces such as [\"eth0\", \"wwan*\"]";
        let items = self.array(json, what)?;
        if items.is_empty() {
            self.wrong(json, "at least one interface");
            return None;
        }
        let mut patterns = Vec::new();
        let mut names = HashSet::new();
        for item in items {
            if let Some(pattern) = self.interface(item) {
                if names.insert(pattern.name.value.clone()) {
                    patterns.push(pattern);
                } else {
                    let message = format!("the interface {} is given twice", item_name(&pattern));
                    self.errors.push(Diagnostic::new(&item.at, message));
                }
            }
        }
        Some(patterns)
    }

    fn interface(&mut self, json: &Json) -> Option<InterfacePattern> {
        let (mut name, mut optional) = (Some(json), false);
        if let Some(members) = json.as_object() {
            name = json.get("name");
            for member in members {
                match &*member.key {
                    "name" => {}
                    "optional" => optional = self.bool(&member.value).unwrap_or_default(),
                    _ => self.unknown(member, "field", &["name", "optional"]),
                }
            }
            if name.is_none() {
                self.missing(json, "name");
            }
        }
        let name = name?;
        // 127 bytes are the most that the kernel takes as alternative name.
        let fits = |text: &&str| {
            let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':';
            (1..=127).contains(&text.len()) && !text.contains(bad) && *text != "." && *text != ".."
        };
        match name.as_str().filter(fits) {
            Some(text) => {
                let name = Spanned::new(text.to_owned(), name.at.clone());
                Some(InterfacePattern { name, optional })
            }
            None => {
                self.wrong(
                    name,
                    "the name of an interface or a pattern such as \"wwan*\"",
                );
                None
            }
        }
    }

    fn xdp(&mut self, json: &Json) -> XdpOptions {
        let mut options = XdpOptions::default();
        for member in self
            .object(json, "an object of options")
            .into_iter()
            .flatten()
        {
            let value = &member.value;
            match &*member.key {
                "mode" => {
                    let words = [
                        ("auto", XdpMode::Auto),
                        ("native", XdpMode::Native),
                        ("generic", XdpMode::Generic),
                    ];
                    options.mode = self.word(value, &words).unwrap_or_default();
                }
                "replace" => options.replace = self.bool(value).unwrap_or_default(),
                "trust_checksums" => {
                    options.trust_checksums = self.bool(value).unwrap_or_default();
                }
                _ => self.unknown(member, "field", &["mode", "replace", "trust_checksums"]),
            }
        }
        options
    }

    fn position(&mut self, json: &Json) -> Option<Position> {
        let Some(members) = json.as_object() else {
            let words = [("first", Position::First), ("last", Position::Last)];
            let position = json
                .as_str()
                .and_then(|s| words.iter().find(|(w, _)| *w == s));
            if position.is_none() {
                let expected = "\"first\", \"last\" or {\"before\": program}";
                let error = Diagnostic::expected(&json.at, expected, json.found());
                let text = json.as_str().unwrap_or_default();
                self.errors
                    .push(error.suggest_nearest(text, ["first", "last"]));
            }
            return position.map(|(_, position)| position.clone());
        };
        for member in members {
            if &*member.key != "before" {
                self.unknown(member, "field", &["before"]);
            }
        }
        let Some(before) = json.get("before") else {
            self.missing(json, "before");
            return None;
        };
        match &before.value {
            Value::String(name) if !name.is_empty() => Some(Position::BeforeName(name.clone())),
            Value::Number(_) => self.u32(before, 1).map(|id| Position::BeforeId(id.value)),
            _ => {
                self.wrong(before, "the name or the id of a program");
                None
            }
        }
    }

    /// The one member of a step or of an expression.
    fn one_key<'a>(&mut self, json: &'a Json, what: &str) -> Option<&'a Member> {
        match self.object(json, what)? {
            [member] => Some(member),
            [] => {
                self.wrong(json, what);
                None
            }
            [_, second, ..] => {
                let message = format!(
                    "expected {what} with one key, found the key {} too",
                    quoted(&second.key)
                );
                self.errors.push(Diagnostic::new(&second.key_at(), message));
                None
            }
        }
    }

    fn expr(&mut self, json: &Json, depth: usize) -> Option<Expr> {
        if depth > DEEPEST_EXPRESSION {
            self.errors.push(too_deep(&json.at));
            return None;
        }
        let what = "an expression: an object with the name of a selector, all, any, not or use";
        let member = self.one_key(json, what)?;
        let node = match &*member.key {
            key @ ("all" | "any") => {
                let items = self.array(&member.value, "an array of expressions")?;
                let parts: Vec<Option<Expr>> = items
                    .iter()
                    .map(|item| self.expr(item, depth + 1))
                    .collect();
                let parts = parts.into_iter().collect::<Option<Vec<Expr>>>()?;
                if key == "all" {
                    ExprNode::All(parts)
                } else {
                    ExprNode::Any(parts)
                }
            }
            "not" => ExprNode::Not(Box::new(self.expr(&member.value, depth + 1)?)),
            "use" => ExprNode::Use(self.used(&member.value)?),
            _ => ExprNode::Step(self.step(member, &OPERATORS)?),
        };
        Some(Expr {
            at: json.at.clone(),
            node,
        })
    }

    fn acts(&mut self, json: &Json) -> Option<Vec<Act>> {
        let items = self.array(json, "an array of actors")?;
        if items.is_empty() {
            self.wrong(json, "at least one actor");
            return None;
        }
        let acts: Vec<Option<Act>> = items.iter().map(|item| self.act(item)).collect();
        acts.into_iter().collect()
    }

    fn act(&mut self, json: &Json) -> Option<Act> {
        let what = "a step: an object with the name of an actor or use";
        let member = self.one_key(json, what)?;
        match &*member.key {
            "use" => self.used(&member.value).map(Act::Use),
            "all" | "any" | "not" => {
                let message = format!(
                    "{} is for expressions: actors run one after the other",
                    quoted(&member.key)
                );
                self.errors.push(Diagnostic::new(&member.key_at(), message));
                None
            }
            _ => self.step(member, &["use"]).map(Act::Step),
        }
    }

    fn used(&mut self, json: &Json) -> Option<Spanned<String>> {
        let name = self.string(json)?;
        Some(Spanned::new(name, json.at.clone()))
    }

    fn step(&mut self, member: &Member, operators: &[&str]) -> Option<Step> {
        if !is_name(&member.key) {
            let error = Diagnostic::expected(
                &member.key_at(),
                "the name of a module",
                quoted(&member.key),
            );
            self.errors
                .push(error.suggest_nearest(&member.key, operators.iter().copied()));
            return None;
        }
        self.object(&member.value, "an object of parameters")?;
        let module = Spanned::new(member.key.to_string(), member.key_at());
        Some(Step {
            module,
            params: member.value.clone(),
        })
    }
}

fn item_name(pattern: &InterfacePattern) -> String {
    quoted(&pattern.name)
}

pub(super) fn too_deep(at: &Place) -> Diagnostic {
    Diagnostic::new(
        at,
        format!("nested deeper than {DEEPEST_EXPRESSION} levels"),
    )
}

/// Whether it is 1 to 63 characters of `[a-z0-9_-]`.
pub(super) fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(fits)
}

/// `"a", "b" or "c"`
pub(crate) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("{name:?}")).collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
