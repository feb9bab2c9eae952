//! From the BTF of an object to the description of its module.

use std::collections::BTreeMap;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::BtfKind;
use libbpf_rs::btf::BtfType;
use libbpf_rs::btf::HasSize as _;
use libbpf_rs::btf::TypeId;
use libbpf_rs::btf::types::Array;
use libbpf_rs::btf::types::DataSec;
use libbpf_rs::btf::types::DeclTag;
use libbpf_rs::btf::types::Enum;
use libbpf_rs::btf::types::Func;
use libbpf_rs::btf::types::Int;
use libbpf_rs::btf::types::IntEncoding;
use libbpf_rs::btf::types::MemberAttr;
use libbpf_rs::btf::types::Ptr;
use libbpf_rs::btf::types::Struct;
use libbpf_rs::btf::types::Union;
use libbpf_rs::btf::types::Var;

use super::Field;
use super::Flags;
use super::Hook;
use super::Kind;
use super::MapInfo;
use super::Module;
use super::Object;
use super::Param;
use super::Scope;
use super::Shape;
use super::TableKey;
use super::Type;
use crate::abi;

/// Why an object is no module; fit for a person who wrote it.
type Problem = String;

/// What the tags of one place say: `doc:…` becomes `doc` → `…`.
type Tags = BTreeMap<String, String>;

/// Largest structure of parameters, in bytes.
const MOST_PARAMS: usize = 1 << 16;

/// All tags of an object, by the type and the member (if any) that they are at.
struct AllTags(BTreeMap<(u32, Option<u32>), Tags>);

impl AllTags {
    fn read(btf: &Btf<'_>) -> Self {
        let mut all: BTreeMap<_, Tags> = BTreeMap::new();
        for tag in btf.type_by_kind::<DeclTag<'_>>() {
            let Some(target) = tag.next_type() else {
                continue;
            };
            let text = tag
                .name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let Some(text) = text.strip_prefix("emptcp:") else {
                continue;
            };
            let (key, value) = text.split_once(':').unwrap_or((text, ""));
            all.entry((target.type_id().into(), tag.component_index()))
                .or_default()
                .insert(key.to_owned(), value.to_owned());
        }
        Self(all)
    }

    fn at(&self, ty: TypeId, member: Option<u32>) -> Tags {
        self.0
            .get(&(ty.into(), member))
            .cloned()
            .unwrap_or_default()
    }
}

/// Reads what the object says of the module in it.
///
/// # Errors
///
/// The object is no module, or one for another version of emptcp: what is
/// missing or wrong, and what it takes.
pub(super) fn read(btf: &Btf<'_>) -> Result<Object, Problem> {
    let tags = AllTags::read(btf);
    let (name, own) = program(btf, &tags)?;
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(is_name) {
        return Err(format!(
            "the module's name {name:?} is not of small letters, digits and _"
        ));
    }
    let get = |key: &str| {
        own.get(key).map(String::as_str).ok_or_else(|| {
            format!(
                "program {name} has no tag {key}: declare it with EMPTCP_SELECTOR or EMPTCP_ACTOR"
            )
        })
    };
    let abi = get("abi")?;
    if abi != abi::ABI {
        return Err(format!(
            "module {name} has ABI {abi}, this emptcp has {}: compile it again with its headers",
            abi::ABI
        ));
    }
    let kind = match get("kind")? {
        "selector" => Kind::Selector,
        "actor" => Kind::Actor,
        other => return Err(format!("module {name} is of the unknown kind {other:?}")),
    };
    let mut hooks = Vec::new();
    for hook in get("hooks")?.split(',') {
        hooks.push(
            hook.parse::<Hook>()
                .map_err(|e| format!("hooks of module {name}: {e}"))?,
        );
    }
    hooks.sort_unstable();
    let since = get("since")?
        .parse()
        .map_err(|e| format!("since of module {name}: {e}"))?;
    let flags =
        flags(get("flags")?).map_err(|f| format!("module {name} has the unknown flag {f:?}"))?;

    let maps = maps(btf, &tags);
    let step = Step::find(btf).ok_or_else(|| {
        format!(
            "module {name} has no parameters in its BTF (struct {name}_params in emptcp_step): \
             declare it with EMPTCP_SELECTOR or EMPTCP_ACTOR, compile it with clang -g"
        )
    })?;
    if step.params.size() > MOST_PARAMS {
        return Err(format!(
            "module {name} has {} bytes of parameters, at most {MOST_PARAMS} are possible",
            step.params.size()
        ));
    }
    let mut params = Vec::new();
    for (index, member) in step.params.iter().enumerate() {
        let member_name = member
            .name
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let member_tags = tags.at(step.params.type_id(), Some(index as u32));
        if member_name == "unused" || member_name.starts_with("pad") || member_name.is_empty() {
            continue;
        }
        let MemberAttr::Normal { offset } = member.attr else {
            return Err(format!(
                "parameter {member_name} of module {name} is a bit field"
            ));
        };
        let ty = btf
            .type_by_id::<BtfType<'_>>(member.ty)
            .ok_or_else(|| format!("parameter {member_name} of module {name} has no type"))?;
        let table = maps
            .iter()
            .find(|m| m.table_of.as_deref() == Some(member_name.as_str()))
            .map(|m| m.name.clone());
        params.push(Param {
            ty: param_type(btf, ty, table)
                .map_err(|e| format!("parameter {member_name} of module {name}: {e}"))?,
            doc: member_tags.get("doc").cloned().unwrap_or_default(),
            offset: offset as usize / 8,
            required: member_tags.contains_key("required"),
            default: member_tags.get("default").cloned(),
            min: member_tags.get("min").cloned(),
            max: member_tags.get("max").cloned(),
            lookup: false,
            required_if: member_tags
                .get("required-if")
                .and_then(|tag| tag.split_once('='))
                .map(|(other, value)| (other.to_owned(), value.to_owned())),
            edits_if: member_tags.contains_key("edits-if"),
            leaves_by: member_tags.contains_key("leaves-by"),
            tracked_unless: member_tags.contains_key("tracked-unless"),
            event: (member_tags.get("event").map(|fact| fact.parse()))
                .transpose()
                .map_err(|e| format!("parameter {member_name} of module {name}: {e}"))?,
            name: member_name,
        });
    }
    table_params(btf, &tags, &name, &mut params)?;
    Ok(Object {
        module: Module {
            kind,
            hooks,
            since,
            doc: get("doc")?.to_owned(),
            flags,
            params,
            params_size: step.params.size(),
            // Functions that were inlined are not in BTF.
            joinable: btf.type_by_kind::<Func<'_>>().count() == 1,
            warns: tags.at(step.params.type_id(), None).remove("warns"),
            alias: own.get("alias").cloned(),
            name,
        },
        maps,
        step_offset: step.offset,
        params_offset: step.params_offset,
    })
}

/// The one program of the object, and its tags.
fn program(btf: &Btf<'_>, tags: &AllTags) -> Result<(String, Tags), Problem> {
    let mut found: Vec<(String, Tags)> = btf
        .type_by_kind::<Func<'_>>()
        .map(|f| {
            (
                f.name().unwrap_or_default().to_string_lossy().into_owned(),
                tags.at(f.type_id(), None),
            )
        })
        .filter(|(_, tags)| !tags.is_empty())
        .collect();
    match (found.pop(), found.pop()) {
        (Some(one), None) => Ok(one),
        (Some((a, _)), Some((b, _))) => Err(format!(
            "the object declares two modules, {b} and {a}: one file holds one"
        )),
        (None, _) => Err(
            "the object declares no module: EMPTCP_SELECTOR or EMPTCP_ACTOR is missing, \
                          or it was compiled without -g"
                .to_owned(),
        ),
    }
}

fn flags(text: &str) -> Result<Flags, String> {
    let mut flags = Flags::default();
    for flag in text.split(',').filter(|f| !f.is_empty()) {
        match flag {
            "impure" => flags.impure = true,
            "edits" => flags.edits = true,
            "observes" => flags.observes = true,
            "ends" => flags.ends = true,
            "context" => flags.context = true,
            "fq" => flags.fq = true,
            "tracks" => flags.tracks = true,
            "tracked" => flags.tracked = true,
            "totals" => flags.totals = true,
            other => return Err(other.to_owned()),
        }
    }
    Ok(flags)
}

/// The maps that the module declares, with what their tags say.
fn maps(btf: &Btf<'_>, tags: &AllTags) -> Vec<MapInfo> {
    let Some(section) = btf.type_by_name::<DataSec<'_>>(".maps") else {
        return Vec::new();
    };
    let mut maps = Vec::new();
    for info in section.iter() {
        let Some(var) = btf.type_by_id::<Var<'_>>(info.ty) else {
            continue;
        };
        let own = tags.at(var.type_id(), None);
        maps.push(MapInfo {
            name: var
                .name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            scope: match own.get("scope").map(String::as_str) {
                Some("policy") => Scope::Policy,
                Some("keep") => Scope::Keep,
                _ => Scope::Step,
            },
            table_of: own.get("table-of").cloned(),
            is_param: own.contains_key("param"),
            limit: own.get("limit").cloned(),
            shape: shape(btf, &var).unwrap_or_default(),
            key: fields_of(btf, &var, "key").unwrap_or_default(),
            value: fields_of(btf, &var, "value").unwrap_or_default(),
        });
    }
    maps
}

/// The layout of a map, by the members of its definition: `__uint()` is a pointer to an array
/// of so many items, `__type()` one to the type.
fn shape(btf: &Btf<'_>, map: &Var<'_>) -> Option<Shape> {
    let definition = Struct::try_from(map.next_type()?.skip_mods_and_typedefs()).ok()?;
    let target = |name: &str| {
        let member = definition
            .iter()
            .find(|m| m.name.is_some_and(|n| n == name))?;
        btf.type_by_id::<Ptr<'_>>(member.ty)?.next_type()
    };
    let number = |name: &str| {
        let array = Array::try_from(target(name)?).ok()?;
        Some(array.capacity())
    };
    let bytes = |of: &str| target(of).and_then(|ty| size_of(&ty));
    Some(Shape {
        ty: number("type").unwrap_or(0),
        key_size: number("key_size").or_else(|| bytes("key")).unwrap_or(0),
        value_size: number("value_size").or_else(|| bytes("value")).unwrap_or(0),
        entries: number("max_entries").unwrap_or(0),
        flags: number("map_flags").unwrap_or(0),
    })
}

/// Bytes of a type.
fn size_of(ty: &BtfType<'_>) -> Option<usize> {
    let ty = ty.skip_mods_and_typedefs();
    if let Ok(array) = Array::try_from(ty) {
        return size_of(&array.contained_type())?.checked_mul(array.capacity());
    }
    let sizes = [
        Int::try_from(ty).map(|t| t.size()).ok(),
        Struct::try_from(ty).map(|t| t.size()).ok(),
        Union::try_from(ty).map(|t| t.size()).ok(),
        Enum::try_from(ty).map(|t| t.size()).ok(),
    ];
    sizes.into_iter().flatten().next()
}

/// What the keys or values of a map hold, by the pointer of this name in its definition.
fn fields_of(btf: &Btf<'_>, map: &Var<'_>, which: &str) -> Option<Vec<Field>> {
    let definition = Struct::try_from(map.next_type()?.skip_mods_and_typedefs()).ok()?;
    let pointer = definition
        .iter()
        .find(|m| m.name.is_some_and(|n| n == which))?;
    let pointer = btf.type_by_id::<Ptr<'_>>(pointer.ty)?;
    let mut fields = Vec::new();
    add_fields(btf, pointer.next_type()?, which, 0, &mut fields)?;
    Some(fields)
}

/// Adds a type of the vocabulary as one field, a structure as those of its members.
fn add_fields(
    btf: &Btf<'_>,
    ty: BtfType<'_>,
    name: &str,
    offset: usize,
    fields: &mut Vec<Field>,
) -> Option<()> {
    let is = |name: &str| ty.name().is_some_and(|n| n == name);
    let (is_step, is_known_unless_zero) = (is("emptcp_step_id"), is("emptcp_rtt"));
    if let Ok(known) = param_type(btf, ty, None) {
        fields.push(Field {
            name: name.to_owned(),
            ty: known,
            offset,
            is_step,
            is_known_unless_zero,
        });
        return Some(());
    }
    let structure = Struct::try_from(ty.skip_mods_and_typedefs()).ok()?;
    for member in structure.iter() {
        let MemberAttr::Normal { offset: bits } = member.attr else {
            return None;
        };
        let name = member.name?.to_string_lossy();
        if !name.starts_with("pad") {
            let ty = btf.type_by_id::<BtfType<'_>>(member.ty)?;
            add_fields(btf, ty, &name, offset + bits as usize / 8, fields)?;
        }
    }
    Some(())
}

/// The maps that are parameters, behind those of the structure.
fn table_params(
    btf: &Btf<'_>,
    tags: &AllTags,
    module: &str,
    params: &mut Vec<Param>,
) -> Result<(), Problem> {
    let Some(section) = btf.type_by_name::<DataSec<'_>>(".maps") else {
        return Ok(());
    };
    for info in section.iter() {
        let Some(var) = btf.type_by_id::<Var<'_>>(info.ty) else {
            continue;
        };
        let own = tags.at(var.type_id(), None);
        if !own.contains_key("param") {
            continue;
        }
        let name = var
            .name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        params.push(Param {
            ty: table_type(btf, &var)
                .map_err(|e| format!("parameter {name} of module {module}: {e}"))?,
            doc: own.get("doc").cloned().unwrap_or_default(),
            offset: 0,
            required: own.contains_key("required"),
            default: None,
            min: None,
            max: None,
            lookup: own.contains_key("lookup"),
            required_if: None,
            edits_if: false,
            leaves_by: false,
            tracked_unless: false,
            event: None,
            name,
        });
    }
    Ok(())
}

/// The type of a map that is a parameter, by the names of its key and value.
fn table_type(btf: &Btf<'_>, map: &Var<'_>) -> Result<Type, Problem> {
    let definition = map
        .next_type()
        .and_then(|ty| Struct::try_from(ty.skip_mods_and_typedefs()).ok())
        .ok_or("no definition of a map")?;
    // `__type(key, T)` is a pointer to T.
    let of_member = |name: &str| {
        let member = definition
            .iter()
            .find(|m| m.name.is_some_and(|n| n == name))?;
        btf.type_by_id::<BtfType<'_>>(member.ty)?.next_type()
    };
    let key = of_member("key").ok_or("a table needs __type(key, ...)")?;
    let key = named(key, key_type).ok_or(
        "the key of a table is struct emptcp_prefix_key, emptcp_addr or emptcp_subflow, \
         emptcp_token or emptcp_port_key",
    )?;
    let value = of_member("value").ok_or("a table needs __type(value, ...)")?;
    let is_set = named(value, |name| (name == "__u8").then_some(())).is_some()
        && named(value, named_type).is_none();
    let value = match is_set {
        true => None,
        false => match param_type(btf, value, None)? {
            Type::Prefix
            | Type::PortRange
            | Type::Cgroup
            | Type::Text
            | Type::Enum { .. }
            | Type::Set { .. }
            | Type::List { .. }
            | Type::Table { .. } => {
                return Err("no table holds values of that type".to_owned());
            }
            ty => Some(Box::new(ty)),
        },
    };
    Ok(Type::Table { key, value })
}

/// What `known` makes of the first name that it knows, of a type or of those that it stands for.
fn named<T>(mut ty: BtfType<'_>, known: impl Fn(&str) -> Option<T>) -> Option<T> {
    loop {
        if let Some(found) = ty.name().and_then(|n| known(&n.to_string_lossy())) {
            return Some(found);
        }
        match ty.kind() {
            BtfKind::Typedef | BtfKind::Const | BtfKind::Volatile => ty = ty.next_type()?,
            _ => return None,
        }
    }
}

/// The keys of tables in `types.h`.
fn key_type(name: &str) -> Option<TableKey> {
    Some(match name {
        "emptcp_prefix_key" => TableKey::Prefix,
        "emptcp_addr" => TableKey::Addr,
        "emptcp_subflow" => TableKey::Subflow,
        "emptcp_token" => TableKey::Token,
        "emptcp_port_key" => TableKey::Port,
        _ => return None,
    })
}

/// The variable `emptcp_step` and the structure of the parameters in it.
struct Step<'btf> {
    /// From the start of the read-only data, in bytes.
    offset: usize,
    /// From the start of the variable, in bytes.
    params_offset: usize,
    params: Struct<'btf>,
}

impl<'btf> Step<'btf> {
    fn find(btf: &'btf Btf<'_>) -> Option<Self> {
        let section = btf.type_by_name::<DataSec<'_>>(".rodata")?;
        let (offset, var) = section.iter().find_map(|info| {
            let var = btf.type_by_id::<Var<'_>>(info.ty)?;
            (var.name()? == "emptcp_step").then_some((info.offset as usize, var))
        })?;
        let step = Struct::try_from(var.next_type()?.skip_mods_and_typedefs()).ok()?;
        let member = step
            .iter()
            .find(|m| m.name.is_some_and(|n| n == "params"))?;
        let MemberAttr::Normal { offset: bits } = member.attr else {
            return None;
        };
        let params = btf
            .type_by_id::<BtfType<'_>>(member.ty)?
            .skip_mods_and_typedefs();
        Some(Self {
            offset,
            params_offset: bits as usize / 8,
            params: Struct::try_from(params).ok()?,
        })
    }
}

/// The type of a parameter; `table`: the map that takes a longer list.
fn param_type(btf: &Btf<'_>, ty: BtfType<'_>, table: Option<String>) -> Result<Type, Problem> {
    // A name of the vocabulary decides, before what lies behind it.
    if let Some(known) = named(ty, named_type) {
        return Ok(known);
    }
    let ty = ty.skip_mods_and_typedefs();
    if let Ok(int) = Int::try_from(ty) {
        let size = int.bits.div_ceil(8) as usize;
        return Ok(match int.encoding {
            IntEncoding::Signed => Type::Int(size),
            _ => Type::Uint(size),
        });
    }
    if let Ok(e) = Enum::try_from(ty) {
        return Ok(Type::Enum {
            size: e.size(),
            values: enum_values(&e),
        });
    }
    if let Ok(union) = Union::try_from(ty) {
        let member = |name: &str| union.iter().find(|m| m.name.is_some_and(|n| n == name));
        if let (Some(_), Some(of)) = (member("bits"), member("member"))
            && let Some(e) = btf.type_by_id::<Enum<'_>>(of.ty)
        {
            let values = enum_values(&e);
            if values.iter().any(|(_, v)| !(0..64).contains(v)) {
                return Err("a set takes an enum whose values are 0 to 63".to_owned());
            }
            return Ok(Type::Set { values });
        }
    }
    if let Ok(list) = Struct::try_from(ty) {
        let member = |name: &str| list.iter().find(|m| m.name.is_some_and(|n| n == name));
        if let (Some(_), Some(items)) = (member("count"), member("items")) {
            let array = btf
                .type_by_id::<Array<'_>>(items.ty)
                .ok_or("items of a list is no array")?;
            let of = param_type(btf, array.contained_type(), None)?;
            if matches!(of, Type::List { .. } | Type::Table { .. }) {
                return Err("a list of lists".to_owned());
            }
            let MemberAttr::Normal { offset } = items.attr else {
                return Err("items of a list is a bit field".to_owned());
            };
            let items_offset = offset as usize / 8;
            let room = list.size().checked_sub(items_offset);
            let room = room.ok_or("items of a list lie behind its end")?;
            let item_size = room / array.capacity().max(1);
            return Ok(Type::List {
                of: Box::new(of),
                max: array.capacity(),
                items_offset,
                item_size,
                table,
            });
        }
    }
    let name = ty.name().unwrap_or_default().to_string_lossy().into_owned();
    Err(format!(
        "type {name:?} is not in the vocabulary of emptcp/types.h"
    ))
}

/// The types of `types.h` that have names.
fn named_type(name: &str) -> Option<Type> {
    Some(match name {
        "emptcp_bytes" => Type::Bytes,
        "emptcp_rate" => Type::Rate,
        "emptcp_time" => Type::Time,
        "emptcp_ratio" => Type::Ratio,
        "emptcp_addr" => Type::Addr,
        "emptcp_prefix" => Type::Prefix,
        "emptcp_port" => Type::Port,
        "emptcp_port_range" => Type::PortRange,
        "emptcp_token" => Type::Token,
        "emptcp_ifindex" => Type::Interface,
        "emptcp_cgroup" => Type::Cgroup,
        "emptcp_text" => Type::Text,
        "emptcp_bool" => Type::Bool,
        _ => return None,
    })
}

/// Names without their common prefix (up to an underscore), in lower case, and values.
fn enum_values(e: &Enum<'_>) -> Vec<(String, i64)> {
    let members: Vec<(String, i64)> = e
        .iter()
        .map(|m| {
            (
                m.name.unwrap_or_default().to_string_lossy().into_owned(),
                m.value,
            )
        })
        .collect();
    let common = members.iter().map(|(n, _)| n.as_str()).reduce(|a, b| {
        let mut pairs = a.char_indices().zip(b.chars());
        let differs = pairs.find(|((_, x), y)| x != y);
        let same = differs.map_or(a.len().min(b.len()), |((at, _), _)| at);
        &a[..same]
    });
    let cut = match common {
        Some(c) if members.len() > 1 => c.rfind('_').map_or(0, |i| i + 1),
        _ => 0,
    };
    members
        .into_iter()
        .map(|(n, v)| (n[cut..].to_lowercase(), v))
        .collect()
}
