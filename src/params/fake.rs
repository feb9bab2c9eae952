//! Modules that exist nowhere, for tests: together they use every type.

use super::Cgroup;
use super::InterfaceResolver;
use super::scalar;
use crate::module::Flags;
use crate::module::Hook;
use crate::module::KernelVersion;
use crate::module::Kind;
use crate::module::Module;
use crate::module::Param;
use crate::module::TableKey;
use crate::module::Type;

/// A module without parameters that runs everywhere.
pub(crate) fn module(kind: Kind, name: &str) -> Module {
    Module {
        name: name.to_owned(),
        alias: None,
        kind,
        hooks: Hook::ALL.to_vec(),
        since: KernelVersion(5, 10),
        doc: "For tests.".to_owned(),
        flags: Flags::default(),
        params: Vec::new(),
        params_size: 0,
        joinable: true,
        warns: None,
    }
}

fn size(ty: &Type) -> usize {
    match ty {
        Type::List {
            max,
            items_offset,
            item_size,
            ..
        } => items_offset + max * item_size,
        Type::Table { .. } => 0,
        ty => scalar::size(ty).unwrap(),
    }
}

impl Module {
    /// Adds an optional parameter, at the next multiple of 8.
    pub(crate) fn with(mut self, name: &str, ty: Type) -> Self {
        let is_table = matches!(ty, Type::Table { .. });
        let offset = if is_table {
            0
        } else {
            self.params_size.next_multiple_of(8)
        };
        if !is_table {
            self.params_size = offset + size(&ty);
        }
        self.params.push(Param {
            name: name.to_owned(),
            doc: "For tests.".to_owned(),
            ty,
            offset,
            required: false,
            default: None,
            min: None,
            max: None,
            lookup: false,
            required_if: None,
            edits_if: false,
            leaves_by: false,
            tracked_unless: false,
            event: None,
        });
        self
    }

    fn last(mut self, change: impl FnOnce(&mut Param)) -> Self {
        change(self.params.last_mut().unwrap());
        self
    }

    pub(crate) fn lookup(self) -> Self {
        self.last(|param| param.lookup = true)
    }

    pub(crate) fn tracked_unless(self) -> Self {
        self.last(|param| param.tracked_unless = true)
    }

    pub(crate) fn event(self, fact: &str) -> Self {
        self.last(|param| param.event = Some(fact.parse().unwrap()))
    }

    pub(crate) fn required(self) -> Self {
        self.last(|param| param.required = true)
    }

    pub(crate) fn default(self, text: &str) -> Self {
        self.last(|param| param.default = Some(text.to_owned()))
    }

    pub(crate) fn between(self, min: &str, max: &str) -> Self {
        self.last(|param| {
            param.min = Some(min.to_owned()).filter(|s| !s.is_empty());
            param.max = Some(max.to_owned()).filter(|s| !s.is_empty());
        })
    }

    pub(crate) fn flagged(mut self, change: impl FnOnce(&mut Flags)) -> Self {
        change(&mut self.flags);
        self
    }
}

/// A list whose items lie close together.
pub(crate) fn list(of: Type, max: usize, table: Option<&str>) -> Type {
    let item_size = size(&of);
    let items_offset = if item_size.is_multiple_of(8) { 8 } else { 4 };
    Type::List {
        of: Box::new(of),
        max,
        items_offset,
        item_size,
        table: table.map(str::to_owned),
    }
}

pub(crate) fn colours() -> Vec<(String, i64)> {
    ["red", "green", "blue"]
        .iter()
        .zip([0, 1, 5])
        .map(|(n, v)| ((*n).to_owned(), v))
        .collect()
}

/// An actor with a parameter of every single type.
pub(crate) fn paint() -> Module {
    module(Kind::Actor, "paint")
        .with("bytes", Type::Bytes)
        .between("1KiB", "1GiB")
        .with("rate", Type::Rate)
        .with("time", Type::Time)
        .with("ratio", Type::Ratio)
        .with("addr", Type::Addr)
        .with("prefix", Type::Prefix)
        .with("port", Type::Port)
        .with("ports", Type::PortRange)
        .between("1", "")
        .with("token", Type::Token)
        .with("interface", Type::Interface)
        .with("cgroup", Type::Cgroup)
        .with("text", Type::Text)
        .with("bool", Type::Bool)
        .with("u8", Type::Uint(1))
        .with("u16", Type::Uint(2))
        .between("", "0x1000")
        .with("u32", Type::Uint(4))
        .with("u64", Type::Uint(8))
        .with("s8", Type::Int(1))
        .with("s16", Type::Int(2))
        .with("s32", Type::Int(4))
        .between("-10", "10")
        .with("s64", Type::Int(8))
        .with(
            "enum",
            Type::Enum {
                size: 4,
                values: colours(),
            },
        )
        .with("set", Type::Set { values: colours() })
}

/// Selectors and actors; the lists hold two items in the parameters.
pub(crate) fn registry() -> Vec<Module> {
    let selector = |name| module(Kind::Selector, name);
    vec![
        selector("even"),
        selector("spot").with("n", Type::Uint(4)),
        selector("dice")
            .flagged(|flags| flags.impure = true)
            .with("n", Type::Uint(4)),
        selector("within")
            .with("prefixes", list(Type::Prefix, 2, Some("many")))
            .with("addrs", list(Type::Addr, 2, Some("many_addrs")))
            .with("ports", list(Type::PortRange, 2, Some("many_ports")))
            .with("single_ports", list(Type::Port, 2, Some("many_single")))
            .with("tokens", list(Type::Token, 2, Some("many_tokens")))
            .with("few", list(Type::Time, 2, None))
            .between("1ms", "")
            .with(
                "kinds",
                list(
                    Type::Enum {
                        size: 4,
                        values: colours(),
                    },
                    2,
                    None,
                ),
            ),
        selector("known")
            .with(
                "table",
                Type::Table {
                    key: TableKey::Subflow,
                    value: None,
                },
            )
            .lookup()
            .required(),
        selector("paced").with(
            "rates",
            Type::Table {
                key: TableKey::Prefix,
                value: Some(Type::Rate.into()),
            },
        ),
        paint(),
        module(Kind::Actor, "cap")
            .with("bytes", Type::Bytes)
            .required()
            .with(
                "mode",
                Type::Enum {
                    size: 4,
                    values: colours(),
                },
            )
            .default("green")
            .with("every", Type::Time)
            .default("100ms"),
        module(Kind::Actor, "mark").with("n", Type::Uint(4)),
        module(Kind::Actor, "note")
            .flagged(|flags| flags.observes = true)
            .with("n", Type::Uint(4)),
        module(Kind::Actor, "stop").flagged(|flags| {
            flags.ends = true;
            flags.observes = true;
        }),
        Module {
            hooks: vec![Hook::TcIngress, Hook::TcEgress],
            ..module(Kind::Actor, "grow").with("to", Type::Bytes)
        },
    ]
}

/// `eth0` is 2, `wwan0` is 3, and the cgroup `/web` 7.
pub(crate) struct TwoInterfaces;

impl InterfaceResolver for TwoInterfaces {
    fn index(&self, name: &str) -> Option<u32> {
        ["eth0", "wwan0"]
            .iter()
            .position(|n| *n == name)
            .map(|i| i as u32 + 2)
    }

    fn name(&self, index: u32) -> Option<String> {
        ["eth0", "wwan0"]
            .get(index.checked_sub(2)? as usize)
            .map(|n| (*n).to_owned())
    }

    fn names(&self) -> Vec<String> {
        vec!["eth0".to_owned(), "wwan0".to_owned()]
    }

    fn cgroup(&self, path: &str) -> Result<Cgroup, String> {
        match path {
            "/web" => Ok(Cgroup { id: 7, level: 1 }),
            _ => Err(format!("there is no cgroup {path:?}")),
        }
    }

    fn cgroup_path(&self, id: u64) -> Option<String> {
        (id == 7).then(|| "/web".to_owned())
    }
}
