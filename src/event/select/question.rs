//! One selector with its parameters, as a test of what an event tells.

use anyhow::Result;

use super::Truth;
use super::facts::Ask;
use super::facts::Facts;
use super::facts::Value;
use super::facts::Way;
use crate::event::filter::holds;
use crate::module::EventFact;
use crate::module::Fact;
use crate::module::Module;
use crate::module::Param;
use crate::module::Type;
use crate::params::Encoded;
use crate::params::from_number;
use crate::params::items;
use crate::policy::quantity::Prefix;

/// Name in an enum that demands nothing.
const ANY: &str = "any";

/// All demands hold for the event; with `either`, or for its other direction.
#[derive(Clone, Debug)]
pub(super) struct Question {
    of_connection: bool,
    way: Way,
    either: bool,
    demands: Vec<(Fact, Demand)>,
}

/// What a fact must be.
#[derive(Clone, Debug)]
enum Demand {
    /// Anything, as long as there is one.
    There,
    In(Vec<Item>),
    Least(u64),
    Most(u64),
}

/// Values that a parameter names.
#[derive(Clone, Debug)]
enum Item {
    Net(Prefix),
    Numbers(u64, u64),
    Word(String),
}

impl Item {
    fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Net(prefix), Value::Address(address)) => holds(prefix, *address),
            (Self::Numbers(first, last), Value::Number(n)) => (*first..=*last).contains(n),
            (Self::Word(word), Value::Word(known)) => word == known,
            _ => false,
        }
    }
}

impl Demand {
    fn is_met_by(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::There, _) => true,
            (Self::In(items), value) => items.iter().any(|item| item.holds(value)),
            (Self::Least(least), Value::Number(n)) => n >= least,
            (Self::Most(most), Value::Number(n)) => n <= most,
            _ => false,
        }
    }
}

impl Question {
    /// `None`: a parameter is not what its tags say.
    pub(super) fn new(module: &Module, encoded: &Encoded) -> Option<Self> {
        let mut test = Self {
            of_connection: false,
            way: Way::Both,
            either: false,
            demands: Vec::new(),
        };
        for param in &module.params {
            let Some(fact) = param.event else {
                continue;
            };
            let (ty, values) = items(param, encoded)?;
            let number = || Some(from_number(values.first()?));
            let word = || words(ty, values.first()?).pop();
            match fact {
                EventFact::Of => test.of_connection = word()? == "connection",
                EventFact::Direction => test.way = Way::named(&word()?)?,
                EventFact::Either => test.either = number()? != 0,
                EventFact::Least(fact) => test.demands.push((fact, Demand::Least(number()?))),
                EventFact::Most(fact) => test.demands.push((fact, Demand::Most(number()?))),
                EventFact::Is(fact) => {
                    if test.demands.is_empty() {
                        test.demands.push((fact, Demand::There));
                    }
                    let demand = one_of(param, ty, &values)?;
                    test.demands.extend(demand.map(|demand| (fact, demand)));
                }
            }
        }
        Some(test)
    }

    pub(super) fn truth(&self, facts: &mut dyn Facts) -> Result<Truth> {
        let turns = if self.either { 2 } else { 1 };
        let mut way = |turned: bool| {
            let demands = self.demands.iter();
            Truth::all(demands.map(|(fact, demand)| {
                let known = facts.tell(&Ask {
                    fact: *fact,
                    of_connection: self.of_connection,
                    way: self.way,
                    turned,
                })?;
                Ok(match known.values.iter().any(|v| demand.is_met_by(v)) {
                    true => Truth::Yes,
                    false if known.whole => Truth::No,
                    false => Truth::Unknown,
                })
            }))
        };
        Truth::any([false, true].into_iter().take(turns).map(&mut way))
    }
}

/// The values of which the fact must be one. Inner `None`: any will do.
fn one_of(param: &Param, ty: &Type, values: &[Vec<u8>]) -> Option<Option<Demand>> {
    let mut items = Vec::new();
    for bytes in values {
        match ty {
            Type::Addr => items.push(Item::Net(Prefix {
                addr: address(bytes)?,
                bits: 128,
            })),
            Type::Prefix => items.push(Item::Net(Prefix {
                addr: address(bytes)?,
                bits: address(bytes.get(16..)?)?.to_bits().leading_ones() as u8,
            })),
            Type::PortRange => {
                let port = |bytes: Option<&[u8]>| bytes.map(from_number);
                items.push(Item::Numbers(port(bytes.get(..2))?, port(bytes.get(2..))?));
            }
            Type::Enum { .. } | Type::Set { .. } => {
                items.extend(words(ty, bytes).into_iter().map(Item::Word));
            }
            _ => items.push(Item::Numbers(from_number(bytes), from_number(bytes))),
        }
    }
    let demands_nothing = |item: &Item| matches!(item, Item::Word(word) if word == ANY);
    let open = items.is_empty() && !param.required;
    Some((!open && !items.iter().any(demands_nothing)).then_some(Demand::In(items)))
}

fn address(bytes: &[u8]) -> Option<std::net::Ipv6Addr> {
    bytes.first_chunk::<16>().map(|octets| (*octets).into())
}

/// The names that an enum or a set holds.
fn words(ty: &Type, bytes: &[u8]) -> Vec<String> {
    let number = from_number(bytes);
    let is_in = |value: i64| match ty {
        Type::Set { .. } => u32::try_from(value).is_ok_and(|bit| number >> (bit & 63) & 1 == 1),
        _ => value as u64 == number,
    };
    match ty {
        Type::Enum { values, .. } | Type::Set { values } => {
            let named = values.iter().filter(|(_, value)| is_in(*value));
            named.map(|(name, _)| name.clone()).collect()
        }
        _ => Vec::new(),
    }
}
