//! What a parameter of a step holds, value by value.

use super::AnyInterface;
use super::Encoded;
use super::LIST_IN_TABLE;
use super::TableContents;
use super::scalar;
use super::table;
use crate::module::Param;
use crate::module::Type;
use crate::policy::Json;
use crate::policy::Place;

/// The values of a parameter as the kernel gets them, with their type: of a list its items, also
/// where they are in a table of the step's own; else the one. `None` where they are in a table of
/// the policy, or nowhere.
pub(crate) fn items<'p>(param: &'p Param, encoded: &Encoded) -> Option<(&'p Type, Vec<Vec<u8>>)> {
    let at = |start: usize, size: usize| Some(encoded.bytes.get(start..start + size)?.to_vec());
    let Type::List {
        of,
        max,
        items_offset,
        item_size,
        table,
    } = &param.ty
    else {
        let size = scalar::size(&param.ty)?;
        return Some((&param.ty, vec![at(param.offset, size)?]));
    };
    let count = u32::try_from(scalar::from_number(&at(param.offset, 4)?)).ok()?;
    if count == LIST_IN_TABLE {
        let map = table.as_deref()?;
        let binding = encoded.tables.iter().find(|binding| binding.map == map)?;
        let TableContents::Anonymous { key, entries } = &binding.contents else {
            return None;
        };
        let shown = table::decode_items(of, *key, entries);
        let place = Place::root("");
        let bytes = |item| {
            let json = Json::from_value(item, &place);
            scalar::encode(of, &json, &AnyInterface).ok()
        };
        let all: Option<Vec<_>> = shown.as_array()?.iter().map(bytes).collect();
        return Some((of, all?));
    }
    let size = scalar::size(of)?;
    let item = |i: usize| at(param.offset + items_offset + i * item_size, size);
    let all: Option<Vec<_>> = (0..(count as usize).min(*max)).map(item).collect();
    Some((of, all?))
}
