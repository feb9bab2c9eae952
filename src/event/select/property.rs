//! Random expressions against a plain evaluator of two values.

use proptest::prelude::*;
use serde_json::Value as Plain;
use serde_json::json;

use super::facts::Ask;
use super::facts::Facts;
use super::facts::Known;
use super::facts::Value;
use super::tests::selection;
use super::*;
use crate::module::Fact;

/// An expression, once more.
#[derive(Clone, Debug)]
enum Model {
    All(Vec<Model>),
    Any(Vec<Model>),
    Not(Box<Model>),
    Port(u16, u16),
    Number(u8, u8),
    Joined(bool),
    Token(u32),
}

/// What there is to know.
#[derive(Clone, Copy, Debug)]
struct World {
    port: u16,
    number: u8,
    joined: bool,
    tokens: [u32; 2],
}

impl Model {
    fn json(&self) -> Plain {
        let all = |parts: &[Model]| parts.iter().map(Model::json).collect::<Vec<_>>();
        match self {
            Self::All(parts) => json!({ "all": all(parts) }),
            Self::Any(parts) => json!({ "any": all(parts) }),
            Self::Not(part) => json!({ "not": part.json() }),
            Self::Port(a, b) => json!({ "to_port": { "in": [a, b] } }),
            Self::Number(min, max) => json!({ "number": { "min": min, "max": max } }),
            Self::Joined(so) => json!({ "kind": { "is": if *so { "joined" } else { "initial" } } }),
            Self::Token(token) => json!({ "conn": { "token": token } }),
        }
    }

    /// Of two values.
    fn holds(&self, world: &World) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(world)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(world)),
            Self::Not(part) => !part.holds(world),
            Self::Port(a, b) => world.port == *a || world.port == *b,
            Self::Number(min, max) => (min..=max).contains(&&world.number),
            Self::Joined(so) => world.joined == *so,
            Self::Token(token) => world.tokens.contains(token),
        }
    }
}

/// A world of which only some is told.
struct Partly {
    world: World,
    told: [bool; 5],
}

impl Facts for Partly {
    fn tell(&mut self, ask: &Ask) -> Result<Known> {
        let [port, number, kind, server, client] = self.told;
        let world = &self.world;
        let values: Vec<(bool, Value)> = match ask.fact {
            Fact::Dport => vec![(port, Value::Number(world.port.into()))],
            Fact::Index => vec![(number, Value::Number(world.number.into()))],
            Fact::Kind => {
                let name = if world.joined { "joined" } else { "initial" };
                vec![(kind, Value::Word(name.to_owned()))]
            }
            Fact::Token => vec![
                (server, Value::Number(world.tokens[0].into())),
                (client, Value::Number(world.tokens[1].into())),
            ],
            other => panic!("{other:?}"),
        };
        Ok(Known {
            whole: values.iter().all(|(told, _)| *told),
            values: values
                .into_iter()
                .filter(|(told, _)| *told)
                .map(|(_, v)| v)
                .collect(),
        })
    }
}

fn models() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![
        (0..4_u16, 0..4_u16).prop_map(|(a, b)| Model::Port(a, 4 + b)),
        (0..4_u8, 0..4_u8).prop_map(|(a, b)| Model::Number(a, b)),
        any::<bool>().prop_map(Model::Joined),
        (0..4_u32).prop_map(Model::Token),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Model::All),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Model::Any),
            inner.prop_map(|part| Model::Not(Box::new(part))),
        ]
    })
}

fn worlds() -> impl Strategy<Value = World> {
    let parts = (0..8_u16, 0..4_u8, any::<bool>(), [0..4_u32, 0..4_u32]);
    parts.prop_map(|(port, number, joined, tokens)| World {
        port,
        number,
        joined,
        tokens,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_that_is_known_decides_as_two_values_do(model in models(), world in worlds()) {
        let selection = selection(&model.json()).unwrap();
        let truth = selection.0.truth(&mut Partly { world, told: [true; 5] }).unwrap();
        let expected = if model.holds(&world) { Truth::Yes } else { Truth::No };
        prop_assert_eq!(truth, expected);
    }

    /// What is decided is so whatever the rest may be.
    #[test]
    fn what_is_decided_holds_in_every_world(
        model in models(),
        world in worlds(),
        told in any::<[bool; 5]>(),
        others in prop::collection::vec(worlds(), 16),
    ) {
        let selection = selection(&model.json()).unwrap();
        let truth = selection.0.truth(&mut Partly { world, told }).unwrap();
        for other in others {
            let pick = |told: bool, known: u32, any: u32| if told { known } else { any };
            let whole = World {
                port: pick(told[0], world.port.into(), other.port.into()) as u16,
                number: pick(told[1], world.number.into(), other.number.into()) as u8,
                joined: if told[2] { world.joined } else { other.joined },
                tokens: [
                    pick(told[3], world.tokens[0], other.tokens[0]),
                    pick(told[4], world.tokens[1], other.tokens[1]),
                ],
            };
            match truth {
                Truth::Yes => prop_assert!(model.holds(&whole), "{:?}", whole),
                Truth::No => prop_assert!(!model.holds(&whole), "{:?}", whole),
                Truth::Unknown => {}
            }
        }
    }
}
