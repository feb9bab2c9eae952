use std::collections::HashSet;
use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::module::Flags;
use crate::module::Module;
use crate::params::fake::TwoInterfaces;
use crate::params::fake::registry;
use crate::policy::Diagnostic;
use crate::policy::Fragment;
use crate::policy::OnError;
use crate::policy::Policy;
use crate::schema::tests::accepts_policy;

fn policy_of(text: &str) -> Policy {
    let fragment = Fragment {
        name: "p".to_owned(),
        bytes: text.as_bytes().to_vec(),
    };
    crate::policy::parse(&[fragment]).unwrap_or_else(|errors| panic!("{errors:?} in {text}"))
}

/// A policy of chains with the given `select` and `act`.
fn chains_of(chains: &[(&str, &str)]) -> Policy {
    let chains: Vec<String> = chains
        .iter()
        .enumerate()
        .map(|(i, (select, act))| {
            format!(
                r#"{{ "name": "c{i}", "hook": "tc-ingress", "interfaces": ["eth0"],
                     "select": {select}, "act": {act} }}"#
            )
        })
        .collect();
    policy_of(&format!(
        r#"{{ "version": 1, "chains": [{}] }}"#,
        chains.join(",")
    ))
}

fn bound(policy: &Policy) -> Vec<BoundChain<'_>> {
    let chains = bind(policy, &registry(), &TwoInterfaces);
    let chains = chains.unwrap_or_else(|errors| panic!("{errors:?}"));
    accepts_policy(&crate::policy::canonical_text(policy));
    chains
}

fn graph_of(policy: &Policy) -> Graph {
    let chains = bound(policy);
    compile(
        Hook::TcIngress,
        &chains.iter().collect::<Vec<_>>(),
        &registry(),
    )
}

/// One line for each node, as in `0 c0/select → 1 | pass | pass`.
fn shown(graph: &Graph) -> String {
    let target = |target: Target| match target {
        Target::Node(index) => index.to_string(),
        Target::Pass => "pass".to_owned(),
        Target::Drop => "drop".to_owned(),
    };
    let nodes = graph.nodes.iter().enumerate().map(|(i, n)| {
        let targets = [n.match_to, n.miss_to, n.error_to].map(target).join(" | ");
        let first = if n.first_actor { " first" } else { "" };
        format!("{i} {}{first} → {targets}\n", n.key)
    });
    nodes.collect()
}

fn errors_of(policy: &Policy) -> Vec<String> {
    let errors = bind(policy, &registry(), &TwoInterfaces).expect_err("must fail");
    errors.iter().map(Diagnostic::to_string).collect()
}

#[test]
fn short_circuit() {
    let spot = |n: u32| format!(r#"{{ "spot": {{ "n": {n} }} }}"#);
    let (a, b, c) = (spot(1), spot(2), spot(3));
    let mark = r#"[{ "mark": {} }]"#;
    for (select, expected) in [
        ("{}", "0 c0/act[0] first → pass | pass | pass\n"),
        (
            r#"{ "all": [] }"#,
            "0 c0/act[0] first → pass | pass | pass\n",
        ),
        (
            r#"{ "not": { "any": [] } }"#,
            "0 c0/act[0] first → pass | pass | pass\n",
        ),
        (r#"{ "any": [] }"#, ""),
        (r#"{ "not": { "all": [] } }"#, ""),
        (
            &a,
            "0 c0/select → 1 | pass | pass\n1 c0/act[0] first → pass | pass | pass\n",
        ),
        (
            &format!(r#"{{ "not": {a} }}"#),
            "0 c0/select/not → pass | 1 | pass\n1 c0/act[0] first → pass | pass | pass\n",
        ),
        (
            &format!(r#"{{ "all": [{a}, {{ "any": [{b}, {c}] }}] }}"#),
            "0 c0/select/all[0] → 1 | pass | pass\n\
             1 c0/select/all[1]/any[0] → 3 | 2 | pass\n\
             2 c0/select/all[1]/any[1] → 3 | pass | pass\n\
             3 c0/act[0] first → pass | pass | pass\n",
        ),
        // A constant ends the evaluation; what stands behind it is not there.
        (
            &format!(r#"{{ "all": [{a}, {{ "any": [] }}, {b}] }}"#),
            "0 c0/select/all[0] → pass | pass | pass\n",
        ),
        (
            &format!(r#"{{ "any": [{{ "all": [{a}, {{ "any": [] }}] }}, {b}] }}"#),
            "0 c0/select/any[0]/all[0] → 1 | 1 | pass\n\
             1 c0/select/any[1] → 2 | pass | pass\n\
             2 c0/act[0] first → pass | pass | pass\n",
        ),
    ] {
        assert_eq!(
            shown(&graph_of(&chains_of(&[(select, mark)]))),
            expected,
            "{select}"
        );
    }
}

#[test]
fn known_outcomes_are_not_asked_for_again() {
    let spot = |n: u32| format!(r#"{{ "spot": {{ "n": {n} }} }}"#);
    let (a, b, t) = (spot(1), spot(2), spot(9));
    let mark = r#"[{ "mark": {} }]"#;
    let graph = |select: &str| graph_of(&chains_of(&[(select, mark)]));
    // t and a, or t and b: where t missed nothing else can match.
    let select = format!(r#"{{ "any": [{{ "all": [{t}, {a}] }}, {{ "all": [{t}, {b}] }}] }}"#);
    assert_eq!(
        shown(&graph(&select)),
        "0 c0/select/any[0]/all[0] → 1 | pass | pass\n\
         1 c0/select/any[0]/all[1] → 3 | 2 | pass\n\
         2 c0/select/any[1]/all[1] → 3 | pass | pass\n\
         3 c0/act[0] first → pass | pass | pass\n"
    );
    assert_eq!(also(&graph(&select), 0), ["c0/select/any[1]/all[0]"]);
    // a and t, or not a and t: the tests of t have the same targets, and are one.
    let select =
        format!(r#"{{ "any": [{{ "all": [{a}, {t}] }}, {{ "all": [{{ "not": {a} }}, {t}] }}] }}"#);
    assert_eq!(
        shown(&graph(&select)),
        "0 c0/select/any[0]/all[0] → 1 | 1 | pass\n\
         1 c0/select/any[0]/all[1] → 2 | pass | pass\n\
         2 c0/act[0] first → pass | pass | pass\n"
    );
    assert_eq!(also(&graph(&select), 1), ["c0/select/any[1]/all[1]"]);
    // What is impure says something new each time.
    let dice = select.replace("spot", "dice");
    assert_eq!(graph(&dice).nodes.len(), 5);
}

fn also(graph: &Graph, node: usize) -> Vec<&str> {
    let also = graph.nodes[node].also.iter();
    also.map(|also| also.key.as_str()).collect()
}

#[test]
fn chains_share_what_is_known() {
    let note = r#"[{ "note": {} }]"#;
    let two = |n: u32| {
        format!(r#"{{ "all": [{{ "spot": {{ "n": 9 }} }}, {{ "spot": {{ "n": {n} }} }}] }}"#)
    };
    let (a, b) = (two(1), two(2));
    let shared = graph_of(&chains_of(&[(&a, note), (&b, note)]));
    assert_eq!(
        shown(&shared),
        "0 c0/select/all[0] → 1 | pass | pass\n\
         1 c0/select/all[1] → 2 | 3 | 3\n\
         2 c0/act[0] first → 3 | 3 | 3\n\
         3 c1/select/all[1] → 4 | pass | pass\n\
         4 c1/act[0] first → pass | pass | pass\n"
    );
    assert_eq!(also(&shared, 0), ["c1/select/all[0]"]);
    assert_eq!(shared.nodes[0].also[0].chain, 1);
    // Behind an actor that may have changed the packet the test is made again; not elsewhere.
    let changed = graph_of(&chains_of(&[(&a, r#"[{ "mark": {} }]"#), (&b, note)]));
    assert_eq!(
        shown(&changed),
        "0 c0/select/all[0] → 1 | pass | pass\n\
         1 c0/select/all[1] → 2 | 4 | 4\n\
         2 c0/act[0] first → 3 | 3 | 3\n\
         3 c1/select/all[0] → 4 | pass | pass\n\
         4 c1/select/all[1] → 5 | pass | pass\n\
         5 c1/act[0] first → pass | pass | pass\n"
    );
    assert_eq!(also(&changed, 0), ["c1/select/all[0]"]);
    // The same with an error of the first chain that drops, and one of the second that does not.
    let mut strict = chains_of(&[(&a, note), (&b, note)]);
    strict.chains[0].on_error = OnError::Drop;
    assert_eq!(
        shown(&graph_of(&strict)).lines().next(),
        Some("0 c0/select/all[0] → 1 | pass | drop")
    );
    // Another zone is another address space.
    let mut zones = chains_of(&[(&a, note), (&b, note)]);
    zones.chains[1].zone = 7;
    assert_eq!(graph_of(&zones).nodes.len(), 6);
    let dice = [a, b].map(|select| select.replace("spot", "dice"));
    let dice = chains_of(&[(&dice[0], note), (&dice[1], note)]);
    assert_eq!(graph_of(&dice).nodes.len(), 6);
    // A chain whose test is known to miss is for those packets only for which the end failed.
    let ended = chains_of(&[
        (r#"{ "even": {} }"#, r#"[{ "stop": {} }]"#),
        (r#"{ "even": {} }"#, note),
    ]);
    assert_eq!(
        shown(&graph_of(&ended)),
        "0 c0/select → 1 | pass | pass\n\
         1 c0/act[0] first → pass | pass | 2\n\
         2 c1/act[0] first → pass | pass | pass\n"
    );
}

#[test]
fn lookups_are_made_again() {
    // The value that the second lookup finds may be the one that an actor takes.
    let known = |table: &str| format!(r#"{{ "known": {{ "table": "{table}" }} }}"#);
    let select = format!(r#"{{ "all": [{0}, {1}, {0}] }}"#, known("t"), known("u"));
    let policy = policy_of(&format!(
        r#"{{ "version": 1, "tables": {{ "t": {{ "type": "subflow" }}, "u": {{ "type": "subflow" }} }},
             "chains": [{{ "name": "c", "hook": "tc-ingress", "interfaces": ["eth0"],
             "select": {select}, "act": [{{ "mark": {{}} }}] }}] }}"#
    ));
    assert_eq!(graph_of(&policy).nodes.len(), 4);
}

#[test]
fn verdicts_and_errors() {
    let policy = policy_of(
        r#"{ "version": 1, "chains": [
            { "name": "b", "priority": 2, "hook": "tc-ingress", "interfaces": ["eth0"],
              "select": { "even": {} }, "act": [{ "mark": {} }, { "stop": {} }] },
            { "name": "c", "priority": 2, "hook": "tc-ingress", "interfaces": ["eth0"],
              "act": [{ "mark": {} }] },
            { "name": "a", "priority": -1, "hook": "tc-ingress", "interfaces": ["eth0"],
              "on_error": "drop", "select": { "even": {} }, "act": [{ "mark": {} }] } ] }"#,
    );
    assert_eq!(
        shown(&graph_of(&policy)),
        "0 a/select → 1 | 5 | drop\n\
         1 a/act[0] first → 2 | 2 | drop\n\
         2 b/select → 3 | 5 | 5\n\
         3 b/act[0] first → 4 | 4 | 5\n\
         4 b/act[1] → pass | pass | 5\n\
         5 c/act[0] first → pass | pass | pass\n"
    );
    assert_eq!(
        graph_of(&policy_of(r#"{ "version": 1 }"#)).start,
        Target::Pass
    );
    // Behind a chain that ends every packet there is nothing, unless it fails.
    let unreached = policy_of(
        r#"{ "version": 1, "chains": [
            { "name": "a", "hook": "tc-ingress", "interfaces": ["eth0"], "on_error": "drop",
              "act": [{ "stop": {} }] },
            { "name": "b", "hook": "tc-ingress", "interfaces": ["eth0"], "act": [{ "mark": {} }] }
        ] }"#,
    );
    assert_eq!(
        shown(&graph_of(&unreached)),
        "0 a/act[0] first → pass | pass | drop\n"
    );
}

#[test]
fn steps_that_do_not_fit() {
    let policy = policy_of(
        r#"{ "version": 1,
  "selectors": { "unused": { "evne": {} } },
  "actors": { "twice": [{ "grow": {} }, { "stop": {} }, { "mark": {} }] },
  "tables": { "t": { "type": "addr", "elements": ["x"] }, "u": { "type": "addr", "value": "u8", "default": "y" } },
  "chains": [
    { "name": "a", "hook": ["xdp", "tc-egress"], "interfaces": ["eth0"], "enabled": false,
      "select": { "any": [{ "mark": {} }, { "spot": { "m": 1 } }] },
      "act": [{ "use": "twice" }, { "even": {} }, { "cap": {} }] },
    { "name": "b", "hook": "tc-egress", "interfaces": ["eth0"],
      "act": [{ "use": "twice" }] } ] }"#,
    );
    assert_eq!(
        errors_of(&policy),
        [
            "p:2:30: selectors.unused.evne: no selector is named \"evne\"; did you mean \"even\"?",
            "p:3:27: actors.twice[0].grow: grow does not run at xdp, a hook of the chain \"a\", but at tc-ingress, tc-egress",
            "p:3:59: actors.twice[2].mark: mark is never reached in the chain \"b\": stop before it ends the chain",
            "p:4:51: tables.t.elements[0]: expected an address such as \"10.0.0.1\" or \"fc00::1\", found \"x\"",
            "p:4:108: tables.u.default: expected a number from 0 to 255, found \"y\"",
            "p:7:29: chains[0].select.any[0].mark: mark is an actor: a selector belongs here",
            "p:7:55: chains[0].select.any[1].spot.m: spot has no parameter \"m\"",
            "p:8:37: chains[0].act[1].even: even is a selector: an actor belongs here",
            "p:8:60: chains[0].act[2].cap: the parameter \"bytes\" is missing",
        ]
    );
}

#[test]
fn shared_steps_have_names_of_their_own() {
    let policy = policy_of(
        r#"{ "version": 1,
            "selectors": { "s": { "any": [{ "even": {} }, { "spot": {} }] } },
            "actors": { "l": [{ "mark": {} }], "m": [{ "use": "l" }, { "mark": { "n": 1 } }] },
            "chains": [{ "name": "c", "hook": "tc-ingress", "interfaces": ["eth0"],
                         "select": { "not": { "use": "s" } },
                         "act": [{ "use": "m" }, { "use": "l" }] }] }"#,
    );
    let keys: Vec<String> = graph_of(&policy)
        .nodes
        .into_iter()
        .map(|node| node.key)
        .collect();
    assert_eq!(
        keys,
        [
            "c/select/not/use:s/any[0]",
            "c/select/not/use:s/any[1]",
            "c/act[0]/use:m[0]/use:l[0]",
            "c/act[0]/use:m[1]",
            "c/act[1]/use:l[0]",
        ]
    );
}

/// Each step is a program.
const ALONE: Budget<'static> = Budget {
    calls: MOST_CALLS_PER_RUN,
    groups: &|graph, _| apart(graph),
};

#[test]
fn runs_are_limited() {
    let tests = |from: u32, n: u32| {
        let tests: Vec<String> = (from..from + n)
            .map(|n| format!(r#"{{ "spot": {{ "n": {n} }} }}"#))
            .collect();
        format!(r#"{{ "all": [{}] }}"#, tests.join(","))
    };
    let mark = r#"[{ "mark": {} }]"#;
    let check = |policy: &Policy| {
        let chains = bound(policy);
        let chains: Vec<&BoundChain<'_>> = chains.iter().collect();
        let graph = compile(Hook::TcIngress, &chains, &registry());
        let budget = ALONE;
        let (steps, path) = longest_path(&graph, &registry(), &budget);
        assert_eq!(steps, path.len());
        let at = |hook| split(hook, &chains, &registry(), &budget).map_err(|e| e.to_string());
        let split = at(Hook::TcIngress);
        let run = check_run(&graph, &chains, &registry(), &budget).map_err(|e| e.to_string());
        assert_eq!(at(Hook::Xdp).is_ok(), run.is_ok());
        (steps, run, split)
    };
    let fits = chains_of(&[(&tests(0, 16), mark), (&tests(20, 15), mark)]);
    let (steps, run, runs) = check(&fits);
    assert_eq!((steps, run, runs.unwrap().len()), (33, Ok(()), 1));
    let more = chains_of(&[(&tests(0, 16), mark), (&tests(20, 16), mark)]);
    let (steps, _, runs) = check(&more);
    assert_eq!((steps, runs), (34, Ok(vec![0..1, 1..2])));
    let long = chains_of(&[(&tests(0, 16), mark), (&tests(0, 16), mark), ("{}", mark)]);
    let (steps, run, runs) = check(&long);
    assert_eq!((steps, runs), (35, Ok(vec![0..1, 1..3])));
    let spots = |n| vec!["spot"; n].join(" → ");
    let expected = format!(
        "the way of a packet at tc-ingress can take 35 tail calls, but the kernel makes 33 in one run; \
         c1/act[0] is the first step that does not fit: chain c0: {0} → mark; chain c1: {0} → mark; \
         chain c2: mark",
        spots(16)
    );
    assert!(
        run.as_ref().is_err_and(|error| error.ends_with(&expected)),
        "{run:?}"
    );
    let alone = chains_of(&[(&tests(0, 33), mark)]);
    let (steps, run, runs) = check(&alone);
    assert_eq!(steps, 34);
    assert_eq!(runs.unwrap_err(), run.unwrap_err());
    // Of two selectors of each chain the chain before has made one.
    let many: Vec<String> = (0..15).map(|n| tests(n, 2)).collect();
    let many: Vec<(&str, &str)> = many
        .iter()
        .map(|t| (t.as_str(), r#"[{ "note": {} }]"#))
        .collect();
    assert_eq!(check(&chains_of(&many)).0, 31);
    // Ways inside of a group cost nothing.
    let chains = bound(&more);
    let chains: Vec<&BoundChain<'_>> = chains.iter().collect();
    let fours = Budget {
        calls: 9,
        groups: &|graph, _| {
            let nodes: Vec<usize> = (0..graph.nodes.len()).collect();
            nodes.chunks(4).map(<[usize]>::to_vec).collect()
        },
    };
    let graph = compile(Hook::TcIngress, &chains, &registry());
    assert_eq!(longest_path(&graph, &registry(), &fours).0, 9);
    assert!(check_run(&graph, &chains, &registry(), &fours).is_ok());
    let less = Budget { calls: 8, ..fours };
    assert_eq!(
        split(Hook::TcIngress, &chains, &registry(), &less).unwrap(),
        [0..1, 1..2]
    );
}

#[test]
fn lookups_are_proved() {
    let check = |select: &str, act: &str, more: &str| {
        let text = format!(
            r#"{{ "version": 1, "tables": {{ "slow": {{ "type": "subflow", "value": "bytes" }},
                 "other": {{ "type": "subflow", "value": "bytes", "default": 9 }} }},
                 "chains": [ {more} {{ "name": "c", "hook": "tc-ingress", "interfaces": ["eth0"],
                 "select": {select}, "act": {act} }}] }}"#
        );
        let policy = policy_of(&text);
        let errors = proves_lookup(&graph_of(&policy)).err().unwrap_or_default();
        errors
            .iter()
            .map(|error| error.message.clone())
            .collect::<Vec<_>>()
    };
    let known = r#"{ "known": { "table": "slow" } }"#;
    let cap = r#"[{ "cap": { "bytes": { "table": "slow" } } }]"#;
    let found = |by: &str| {
        vec![format!(
            "bytes comes from the table \"slow\", but a packet can get here{by} without a match in that table: \
             give a \"default\" beside \"table\""
        )]
    };
    let none = Vec::<String>::new();
    assert_eq!(check(known, cap, ""), none);
    assert_eq!(check("{}", cap, ""), found(""));
    assert_eq!(
        check(&format!(r#"{{ "not": {known} }}"#), cap, ""),
        found(" by way of c/select/not")
    );
    assert_eq!(
        check(
            &format!(r#"{{ "all": [{{ "even": {{}} }}, {known}] }}"#),
            cap,
            ""
        ),
        none
    );
    assert_eq!(
        check(&format!(r#"{{ "not": {{ "not": {known} }} }}"#), cap, ""),
        none
    );
    assert_eq!(
        check(
            &format!(r#"{{ "any": [{{ "even": {{}} }}, {known}] }}"#),
            cap,
            ""
        ),
        found(" by way of c/select/any[0]")
    );
    let other = r#"{ "known": { "table": "other" } }"#;
    assert_eq!(check(other, cap, ""), found(" by way of c/select"));
    assert_eq!(
        check(
            "{}",
            r#"[{ "cap": { "bytes": { "table": "other" } } }]"#,
            ""
        ),
        none
    );
    assert_eq!(
        check(
            "{}",
            r#"[{ "cap": { "bytes": { "table": "slow", "default": 1 } } }]"#,
            ""
        ),
        none
    );
    // What an earlier chain found is not known in this one.
    let earlier = format!(
        r#"{{ "name": "b", "hook": "tc-ingress", "interfaces": ["eth0"], "select": {known},
             "act": [{{ "mark": {{}} }}] }},"#
    );
    assert_eq!(check("{}", cap, &earlier), found(" by way of b/select"));
    // Behind an actor it still is.
    let late = format!(r#"[{{ "mark": {{}} }}, {}]"#, &cap[1..cap.len() - 1]);
    assert_eq!(check(known, &late, ""), none);
}

/// A random expression in the words of JSON.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        8 => (0..6u32).prop_map(|n| format!(r#"{{ "spot": {{ "n": {n} }} }}"#)),
        2 => (0..3u32).prop_map(|n| format!(r#"{{ "dice": {{ "n": {n} }} }}"#)),
        1 => Just(r#"{ "even": {} }"#.to_owned()),
        1 => Just(r#"{ "all": [] }"#.to_owned()),
        1 => Just(r#"{ "any": [] }"#.to_owned()),
    ];
    leaf.prop_recursive(6, 40, 4, |inner| {
        let parts = prop::collection::vec(inner.clone(), 0..4).prop_map(|parts| parts.join(","));
        prop_oneof![
            3 => parts.clone().prop_map(|parts| format!(r#"{{ "all": [{parts}] }}"#)),
            3 => parts.prop_map(|parts| format!(r#"{{ "any": [{parts}] }}"#)),
            2 => inner.prop_map(|part| format!(r#"{{ "not": {part} }}"#)),
        ]
    })
}

fn policies() -> impl Strategy<Value = String> {
    let chain = (
        expressions(),
        (0..3u32, any::<bool>()),
        any::<bool>(),
        any::<bool>(),
        -2..3i32,
    );
    prop::collection::vec(chain, 1..5).prop_map(|chains| {
        let chains: Vec<String> = chains
            .into_iter()
            .enumerate()
            .map(|(i, (select, (actors, changes), ends, strict, priority))| {
                let actor = if changes { "mark" } else { "note" };
                let mut act: Vec<String> = (0..=actors)
                    .map(|n| format!(r#"{{ "{actor}": {{ "n": {n} }} }}"#))
                    .collect();
                if ends {
                    act.push(r#"{ "stop": {} }"#.to_owned());
                }
                let on_error = if strict { "drop" } else { "pass" };
                format!(
                    r#"{{ "name": "c{i}", "hook": "tc-ingress", "interfaces": ["eth0"],
                         "priority": {priority}, "on_error": "{on_error}", "select": {select},
                         "zone": {},
                         "act": [{}] }}"#,
                    i / 3,
                    act.join(",")
                )
            })
            .collect();
        format!(r#"{{ "version": 1, "chains": [{}] }}"#, chains.join(","))
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Match,
    Miss,
    Error,
}

/// What each step says of a packet: a function of zone, module and parameters, and of how
/// many actors have changed the packet; of an impure one also of how many of these ran before.
struct Oracle {
    seed: u64,
    errors: bool,
}

impl Oracle {
    fn says(&self, step: &Ran, impure: bool, time: usize) -> Outcome {
        use std::hash::BuildHasher;
        use std::hash::BuildHasherDefault;
        use std::hash::DefaultHasher;
        let time = if impure { time } else { 0 };
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        match hasher.hash_one((self.seed, step, time)) % 20 {
            0 if self.errors => Outcome::Error,
            n if n % 2 == 0 => Outcome::Match,
            _ => Outcome::Miss,
        }
    }
}

/// Zone, module and parameters of a step that ran, and how many actors had changed the packet.
type Ran = (u32, usize, Encoded, usize);

#[derive(Debug, PartialEq)]
struct Run {
    steps: Vec<Ran>,
    dropped: bool,
}

struct Model<'a> {
    modules: &'a [Module],
    chains: &'a [BoundChain<'a>],
    changes: usize,
    oracle: &'a Oracle,
    run: Run,
    impure: usize,
    count: usize,
}

impl Model<'_> {
    fn step(&mut self, chain: usize, module: usize, params: &Encoded) -> Outcome {
        let zone = self.chains[chain].chain.zone;
        let ran = (zone, module, params.clone(), self.changes);
        let Flags {
            impure, observes, ..
        } = self.modules[module].flags;
        let actor = self.modules[module].kind == Kind::Actor;
        let outcome = self.oracle.says(&ran, impure, self.impure);
        self.impure += usize::from(impure);
        self.changes += usize::from(actor && !observes);
        // Of equal tests only the first tells something.
        if impure || actor || !self.run.steps.contains(&ran) {
            self.run.steps.push(ran);
        }
        self.count += 1;
        outcome
    }

    /// As the words of the format say, without any graph.
    fn expr(&mut self, chain: usize, expr: &BoundExpr) -> Outcome {
        match expr {
            BoundExpr::Step(step) => self.step(chain, step.module, &step.params),
            BoundExpr::Not(part) => match self.expr(chain, part) {
                Outcome::Match => Outcome::Miss,
                Outcome::Miss => Outcome::Match,
                Outcome::Error => Outcome::Error,
            },
            BoundExpr::All(parts) => {
                let outcomes = parts.iter().map(|part| self.expr(chain, part));
                outcomes
                    .into_iter()
                    .find(|o| *o != Outcome::Match)
                    .unwrap_or(Outcome::Match)
            }
            BoundExpr::Any(parts) => {
                let outcomes = parts.iter().map(|part| self.expr(chain, part));
                outcomes
                    .into_iter()
                    .find(|o| *o != Outcome::Miss)
                    .unwrap_or(Outcome::Miss)
            }
        }
    }

    fn chains(&mut self) {
        'chains: for (index, chain) in self.chains.iter().enumerate() {
            let mut outcome = self.expr(index, &chain.select);
            if outcome == Outcome::Match {
                for step in &chain.act {
                    outcome = self.step(index, step.module, &step.params);
                    if outcome == Outcome::Error {
                        break;
                    }
                    if self.modules[step.module].flags.ends {
                        break 'chains;
                    }
                }
            }
            if outcome == Outcome::Error && chain.chain.on_error == OnError::Drop {
                self.run.dropped = true;
                break;
            }
        }
    }

    /// `first`: the chain that the graph begins with. `false`: later parts do not run.
    fn graph(&mut self, graph: &Graph, first: usize) -> bool {
        let mut at = graph.start;
        let mut ended = false;
        while let Target::Node(index) = at {
            let node = &graph.nodes[index];
            let outcome = self.step(first + node.chain, node.module, &node.params);
            ended = outcome != Outcome::Error && self.modules[node.module].flags.ends;
            at = match outcome {
                Outcome::Match => node.match_to,
                Outcome::Miss => node.miss_to,
                Outcome::Error => node.error_to,
            };
        }
        self.run.dropped = at == Target::Drop;
        !ended && !self.run.dropped
    }
}

fn steps_in(expr: &BoundExpr) -> usize {
    match expr {
        BoundExpr::All(parts) | BoundExpr::Any(parts) => parts.iter().map(steps_in).sum(),
        BoundExpr::Not(part) => steps_in(part),
        BoundExpr::Step(_) => 1,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Every step runs in the same order as in the plain model (but for tests whose outcome is
    /// known already), and the packet fares the same.
    #[test]
    fn the_graph_does_what_the_words_say(
        text in policies(), calls in 1..20usize, seeds in any::<[u64; 16]>()
    ) {
        let modules = registry();
        let policy = policy_of(&text);
        let chains = bound(&policy);
        let graph = compile(Hook::TcIngress, &chains.iter().collect::<Vec<_>>(), &modules);
        let all: Vec<&BoundChain<'_>> = chains.iter().collect();
        let parts = split(Hook::TcIngress, &all, &modules, &Budget { calls, ..ALONE });
        let parts = parts.map(|parts| {
            let graph = |part: &Range<usize>| compile(Hook::TcIngress, &all[part.clone()], &modules);
            parts.into_iter().map(|part| (part.clone(), graph(&part))).collect::<Vec<_>>()
        });
        for (_, graph) in parts.iter().flatten() {
            prop_assert!(longest_path(graph, &modules, &ALONE).0 <= calls);
        }
        for (i, seed) in seeds.into_iter().enumerate() {
            let oracle = Oracle { seed, errors: i % 2 == 0 };
            let new = || Model {
                modules: &modules,
                chains: &chains,
                changes: 0,
                oracle: &oracle,
                run: Run { steps: Vec::new(), dropped: false },
                impure: 0,
                count: 0,
            };
            let (mut plain, mut compiled) = (new(), new());
            plain.chains();
            compiled.graph(&graph, 0);
            prop_assert!(compiled.count <= longest_path(&graph, &modules, &ALONE).0);
            prop_assert!(compiled.count <= plain.count);
            prop_assert_eq!(&compiled.run, &plain.run, "{}", shown(&graph));
            // In parts the packet fares the same; a test is made again in each.
            let Ok(parts) = &parts else { continue };
            let mut parted = new();
            for (part, graph) in parts {
                if !parted.graph(graph, part.start) {
                    break;
                }
            }
            prop_assert_eq!(parted.run, plain.run);
        }
    }

    #[test]
    fn the_graph_is_small_and_in_order(text in policies()) {
        let policy = policy_of(&text);
        let chains = bound(&policy);
        let graph = compile(Hook::TcIngress, &chains.iter().collect::<Vec<_>>(), &registry());
        let steps: usize = chains.iter().map(|c| steps_in(&c.select) + c.act.len()).sum();
        prop_assert!(graph.nodes.len() <= steps);
        let mut reached = HashSet::new();
        if let Target::Node(start) = graph.start {
            prop_assert_eq!(start, 0);
            reached.insert(start);
        }
        for (index, node) in graph.nodes.iter().enumerate() {
            prop_assert!(reached.contains(&index), "{} is not reached", node.key);
            for target in [node.match_to, node.miss_to, node.error_to] {
                if let Target::Node(target) = target {
                    prop_assert!(target > index && target < graph.nodes.len());
                    reached.insert(target);
                }
            }
        }
        let keys: HashSet<&String> = graph.nodes.iter().map(|node| &node.key).collect();
        prop_assert_eq!(keys.len(), graph.nodes.len());
        for node in &graph.nodes {
            let also: HashSet<&String> = node.also.iter().map(|also| &also.key).collect();
            prop_assert_eq!(also.len(), node.also.len());
            prop_assert!(!also.contains(&node.key));
        }
    }
}

#[test]
fn size_stays_linear() {
    // As a tree of ways this would have 2^60 leaves.
    let levels: Vec<String> = (0..60)
        .map(|n| {
            format!(
                r#"{{ "any": [{{ "spot": {{ "n": {n} }} }}, {{ "spot": {{ "n": {} }} }}] }}"#,
                n + 100
            )
        })
        .collect();
    let select = format!(r#"{{ "all": [{}] }}"#, levels.join(","));
    let graph = graph_of(&chains_of(&[(&select, r#"[{ "mark": {} }]"#)]));
    assert_eq!(graph.nodes.len(), 121);
    // As many steps as a chain may have, all equal but for one.
    let select = format!(
        r#"{{ "any": [{}, {{ "spot": {{ "n": 1 }} }}] }}"#,
        vec![r#"{ "all": [{ "spot": {} }, { "even": {} }] }"#; 2000].join(",")
    );
    let graph = graph_of(&chains_of(&[(&select, r#"[{ "mark": {} }]"#)]));
    assert_eq!(graph.nodes.len(), 4);
}
