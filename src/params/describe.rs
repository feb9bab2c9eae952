//! Whether a description can be used.

use super::AnyInterface;
use super::scalar;
use super::table;
use crate::module::Kind;
use crate::module::Module;
use crate::module::Param;
use crate::module::Type;
use crate::policy::Place;

/// What is wrong with the description of a module, one sentence each: parameters that lie outside of the
/// structure or upon one another, defaults and bounds that are not values of their
/// type, sizes that do not exist.
///
/// For objects of third parties, before anything is encoded by them.
pub fn check_description(module: &Module) -> Vec<String> {
    let mut errors = Vec::new();
    let mut taken: Vec<(usize, usize, &str)> = Vec::new();
    let mut names: Vec<&str> = module
        .params
        .iter()
        .map(|param| param.name.as_str())
        .collect();
    names.sort_unstable();
    for name in names
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
    {
        errors.push(format!("two parameters are named {name}"));
    }
    let lookups = module.params.iter().filter(|param| param.lookup);
    if lookups.count() > usize::from(module.kind == Kind::Selector) {
        errors.push("one table of a selector can be its EMPTCP_LOOKUP".to_owned());
    }
    for param in &module.params {
        let name = &param.name;
        if let Err(error) = check_type(&param.ty) {
            errors.push(format!("{name}: {error}"));
            continue;
        }
        if let Some(size) = size(&param.ty) {
            match param.offset.checked_add(size) {
                Some(end) if end <= module.params_size => {
                    let over =
                        |other: &&(usize, usize, &str)| param.offset < other.1 && other.0 < end;
                    if let Some((_, _, other)) = taken.iter().find(over) {
                        errors.push(format!("{name} and {other} take up the same bytes"));
                    }
                    taken.push((param.offset, end, name));
                }
                _ => errors.push(format!(
                    "{name}: {size} bytes at {} do not fit in a structure of {}",
                    param.offset, module.params_size
                )),
            }
        }
        if param.event.is_some_and(|fact| !fact.fits(&param.ty)) {
            errors.push(format!(
                "{name}: its EMPTCP_EVENT_FACT is of another type than {}",
                param.ty
            ));
        }
        check_bounds(param, &mut errors);
        if param.tracked_unless && !has_room_for_absence(param) {
            errors.push(format!(
                "{name}: EMPTCP_TRACKED_UNLESS takes an integer without sign that is not required, \
                 without a default, and a max below all bits set"
            ));
        }
    }
    errors
}

fn size(ty: &Type) -> Option<usize> {
    match ty {
        Type::List {
            max,
            items_offset,
            item_size,
            ..
        } => max.checked_mul(*item_size)?.checked_add(*items_offset),
        ty => scalar::size(ty),
    }
}

fn check_type(ty: &Type) -> Result<(), String> {
    match ty {
        Type::Uint(size) | Type::Int(size) if !matches!(size, 1 | 2 | 4 | 8) => {
            Err(format!("an integer of {size} bytes"))
        }
        Type::Enum { size, .. } if !matches!(size, 1 | 2 | 4 | 8) => {
            Err(format!("an enum of {size} bytes"))
        }
        Type::Enum { values, .. } | Type::Set { values } if values.is_empty() => {
            Err("an enum without values".to_owned())
        }
        Type::Set { values } => match values.iter().find(|(_, bit)| !(0..64).contains(bit)) {
            Some((name, bit)) => Err(format!("{name} is {bit}: a set takes values from 0 to 63")),
            None => Ok(()),
        },
        Type::List {
            of,
            max,
            items_offset,
            item_size,
            table,
        } => {
            check_type(of)?;
            let size = scalar::size(of).ok_or("a list of lists or tables")?;
            if size > *item_size || *items_offset < 4 || *max == 0 {
                return Err(format!(
                    "a list of {max} items of {item_size} bytes at {items_offset}"
                ));
            }
            if table.is_some() && table::key_of_items(of).is_none() {
                return Err("a table for items that are no keys".to_owned());
            }
            if max.checked_mul(*item_size).is_none() {
                return Err(format!("a list of {max} items"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether all bits set can mean that it is not given.
fn has_room_for_absence(param: &Param) -> bool {
    let Type::Uint(size) = param.ty else {
        return false;
    };
    let ones = vec![0xff; size];
    let json = |text: &String| scalar::literal(text, &Place::root(""));
    let max = (param.max.as_ref())
        .and_then(|max| scalar::encode(&param.ty, &json(max), &AnyInterface).ok());
    !param.required && param.default.is_none() && max.is_some_and(|max| max != ones)
}

fn check_bounds(param: &Param, errors: &mut Vec<String>) {
    let at = Place::root("");
    let ty = match &param.ty {
        Type::List { of, .. } => of,
        ty => ty,
    };
    for (what, text) in [("min", &param.min), ("max", &param.max)] {
        let Some(text) = text else { continue };
        if !scalar::has_range(ty) {
            errors.push(format!("{}: its type has no {what}", param.name));
        } else if scalar::encode(ty, &scalar::literal(text, &at), &AnyInterface).is_err() {
            errors.push(format!(
                "{}: {what} {text} is not a value of its type",
                param.name
            ));
        }
    }
    let Some(default) = param
        .default
        .as_ref()
        .filter(|_| scalar::size(ty).is_some())
    else {
        return;
    };
    let json = scalar::literal(default, &at);
    let items = match (&param.ty, json.as_array()) {
        (Type::List { .. }, Some(items)) => items,
        _ => std::slice::from_ref(&json),
    };
    for item in items {
        if let Err(found) = scalar::encode_in_range(param, ty, item, &AnyInterface) {
            let why = found.first().map(|d| d.message.clone()).unwrap_or_default();
            errors.push(format!("{}: default {default}: {why}", param.name));
        }
    }
}
