//! From JSON to an expression that events are asked.

use super::Node;
use super::Selection;
use super::question::Question;
use crate::graph::BoundExpr;
use crate::graph::BoundStep;
use crate::graph::bind_expr;
use crate::module::Kind;
use crate::module::Module;
use crate::module::Type;
use crate::params::AnyInterface;
use crate::params::TableContents;
use crate::policy::Diagnostic;
use crate::policy::Fragment;
use crate::policy::Policy;
use crate::policy::ResolvedExpr;
use crate::policy::ResolvedStep;
use crate::policy::Spanned;
use crate::policy::nearest;
use crate::policy::parse_expr;

/// Reads an expression. `policy` has the shared ones that it may use.
///
/// # Errors
///
/// All that is wrong, sorted by place: what would be wrong in a policy, and selectors or parameters
/// that no event tells of.
pub(crate) fn select(
    text: &Fragment,
    policy: &Policy,
    modules: &[Module],
) -> Result<Selection, Vec<Diagnostic>> {
    let expr = parse_expr(text)?;
    let name = Spanned::new(text.name.clone(), expr.at.clone());
    let resolved = policy
        .resolve_expr(&expr, &name)
        .map_err(|error| vec![error])?;
    let mut steps = Vec::new();
    resolved.steps(&mut steps);
    let mut errors: Vec<_> = steps
        .iter()
        .flat_map(|step| not_told(step, modules))
        .collect();
    if !errors.is_empty() {
        errors.sort();
        errors.dedup();
        return Err(errors);
    }
    // So that only these are proposed for a name that is none.
    let of_use = |module: &&Module| module.kind == Kind::Actor || module.asks_events();
    let modules: Vec<Module> = modules.iter().filter(of_use).cloned().collect();
    let bound = bind_expr(policy, &resolved, &modules, &AnyInterface);
    let bound = bound.map_err(|errors| with_names(errors, &resolved, &modules))?;
    node(&bound, &modules).map(Selection).map_err(|e| vec![e])
}

/// What of a step no event tells.
fn not_told(step: &ResolvedStep<'_>, modules: &[Module]) -> Vec<Diagnostic> {
    let name = &step.step.module;
    let named = |module: &&Module| module.kind == Kind::Selector && module.is_named(name);
    let Some(module) = modules.iter().find(named) else {
        return Vec::new();
    };
    if !module.asks_events() {
        let message = format!(
            "no event tells what {} looks at: {}",
            name.value,
            askable(modules)
        );
        let names = askable_names(modules);
        return vec![Diagnostic::new(&name.at, message).suggest_nearest(name, names)];
    }
    let given = step.step.params.as_object().unwrap_or_default().iter();
    let unasked = given.filter_map(|member| {
        let mut params = module.params.iter();
        let param = params.find(|param| *param.name == *member.key)?;
        if param.event.is_some() {
            return None;
        }
        let message = match param.ty {
            Type::Table { .. } => {
                "tables are for packets: events are not looked up in one".to_owned()
            }
            _ => format!(
                "no event tells what {:?} of {} is about: leave it out",
                param.name, module.name
            ),
        };
        Some(Diagnostic::new(&member.key_at(), message))
    });
    unasked.collect()
}

fn askable_names(modules: &[Module]) -> impl Iterator<Item = &str> {
    let modules = modules.iter().filter(|module| module.asks_events());
    modules.map(|module| module.name.as_str())
}

fn askable(modules: &[Module]) -> String {
    let mut names: Vec<&str> = askable_names(modules).collect();
    names.sort_unstable();
    format!("events can be asked {}", names.join(", "))
}

/// Adds to names of no selector which there are, where none is near.
fn with_names(
    mut errors: Vec<Diagnostic>,
    expr: &ResolvedExpr<'_>,
    modules: &[Module],
) -> Vec<Diagnostic> {
    let mut steps = Vec::new();
    expr.steps(&mut steps);
    for step in steps {
        let name = &step.step.module;
        let is_known = modules.iter().any(|module| module.is_named(name));
        if is_known || nearest(name, askable_names(modules)).is_some() {
            continue;
        }
        let place = Diagnostic::new(&name.at, "");
        for error in &mut errors {
            if (error.line, error.column, &error.file) == (place.line, place.column, &place.file) {
                error.message = format!("{}: {}", error.message, askable(modules));
            }
        }
    }
    errors
}

fn node(expr: &BoundExpr, modules: &[Module]) -> Result<Node, Diagnostic> {
    let all = |parts: &[BoundExpr]| -> Result<Vec<_>, _> {
        parts.iter().map(|part| node(part, modules)).collect()
    };
    Ok(match expr {
        BoundExpr::All(parts) => Node::All(all(parts)?),
        BoundExpr::Any(parts) => Node::Any(all(parts)?),
        BoundExpr::Not(part) => Node::Not(Box::new(node(part, modules)?)),
        BoundExpr::Step(step) => Node::Question(question(step, modules)?),
    })
}

fn question(step: &BoundStep, modules: &[Module]) -> Result<Question, Diagnostic> {
    let wrong = |message: &str| Diagnostic::new(&step.at, message);
    let named = |contents: &TableContents| matches!(contents, TableContents::Named(_));
    let in_table = step.params.tables.iter().any(|t| named(&t.contents));
    if in_table || !step.params.from_table.is_empty() {
        return Err(wrong("events are not looked up in tables"));
    }
    let module = modules.get(step.module);
    let question = module.and_then(|module| Question::new(module, &step.params));
    question.ok_or_else(|| wrong("its parameters are not what its module says of them"))
}
