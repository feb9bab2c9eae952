//! The modules that are there: those inside the binary, and those in folders.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;
use anyhow::bail;
use libbpf_rs::btf::Btf;

use super::Hook;
use super::Module;
use super::Type;
use super::btf;
use super::folder;
use super::packed::Packed;
use super::screen::screen;

use crate::params::check_description;

include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// Hooks that one object serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// XDP.
    Xdp,
    /// tc ingress and egress.
    Tc,
}

impl Family {
    /// The section of its programs, and the middle of the names of its objects.
    pub fn section(self) -> &'static str {
        match self {
            Family::Xdp => "xdp",
            Family::Tc => "tc",
        }
    }
}

impl From<Hook> for Family {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Xdp => Family::Xdp,
            Hook::TcIngress | Hook::TcEgress => Family::Tc,
        }
    }
}

/// How long a map of a module lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// As long as its step.
    Step,
    /// As long as a step of the policy uses a map of this name; all share it.
    Policy,
    /// Until the policy is deleted.
    Keep,
}

/// A map that a module declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Name in the source.
    pub name: String,
    /// How long it lives.
    pub scope: Scope,
    /// The list whose items it takes when these are too many for the parameters.
    pub table_of: Option<String>,
    /// A parameter: a table of the policy takes its place.
    pub is_param: bool,
    /// The limit of the policy that sets how many entries it has.
    pub limit: Option<String>,
    /// Its layout.
    pub shape: Shape,
    /// What its keys hold; empty where that cannot be shown.
    pub key: Vec<Field>,
    /// What its values hold; empty where that cannot be shown.
    pub value: Vec<Field>,
}

/// The layout of a map; modules that share one must agree on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// `enum bpf_map_type`.
    pub ty: usize,
    /// In bytes.
    pub key_size: usize,
    /// In bytes.
    pub value_size: usize,
    /// At most.
    pub entries: usize,
    /// `BPF_F_…`.
    pub flags: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ty,
            key_size,
            value_size,
            entries,
            flags,
        } = self;
        write!(
            f,
            "type {ty}, keys of {key_size} bytes, values of {value_size}, {entries} entries, flags {flags}"
        )
    }
}

/// A number or address in the key or the value of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name of the member.
    pub name: String,
    /// What it holds.
    pub ty: Type,
    /// Place in the key or value, in bytes.
    pub offset: usize,
    /// The number of a step, shown as its name (`emptcp_step_id`).
    pub is_step: bool,
    /// 0 means that it is not known (`emptcp_rtt`).
    pub is_known_unless_zero: bool,
}

impl MapInfo {
    /// Members of its keys, then of its values.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.key.iter().chain(&self.value)
    }
}

/// Maps that every step gets from the engine, by their names in `maps.h`, `ctx.h` and `clock.h`.
const ENGINE_MAPS: [&str; 5] = [
    "progs",
    "counters",
    "reasons",
    "chain_words",
    "replay_clock",
];

impl Object {
    /// The maps that the module keeps state in.
    pub fn own_maps(&self) -> impl Iterator<Item = &MapInfo> {
        self.maps.iter().filter(|m| {
            m.table_of.is_none() && !m.is_param && !ENGINE_MAPS.contains(&m.name.as_str())
        })
    }
}

/// A module with what the loader must know of its object.
#[derive(Clone, Debug)]
pub struct Object {
    /// The description.
    pub module: Module,
    /// Maps, those that every module has included.
    pub maps: Vec<MapInfo>,
    /// Offset of the variable `emptcp_step` in the read-only data, in bytes.
    pub step_offset: usize,
    /// Offset of the parameters in `emptcp_step`, in bytes.
    pub params_offset: usize,
}

/// Reads what an object says of the module in it.
///
/// # Errors
///
/// Why it is no module for this emptcp, fit for a person who wrote it.
pub fn describe(bytes: &[u8], family: Family) -> Result<Object, String> {
    screen(bytes, family)?;
    let opened = Btf::from_raw("module", bytes);
    let btf = opened
        .map_err(|e| format!("cannot be opened as a BPF object: {e}"))?
        .ok_or("has BTF that libbpf does not take")?;
    let object = btf::read(&btf)?;
    // Nothing is encoded by a description that cannot be used.
    match check_description(&object.module).first() {
        Some(problem) => Err(format!(
            "module {} describes itself wrongly: {problem}",
            object.module.name
        )),
        None => Ok(object),
    }
}

/// One module: its description and its objects.
#[derive(Clone, Debug)]
struct Entry {
    object: Object,
    /// Where it comes from, for messages.
    origin: String,
    /// Its files; none of a built-in one.
    files: Vec<PathBuf>,
    xdp: Option<Cow<'static, [u8]>>,
    tc: Option<Cow<'static, [u8]>>,
}

/// All modules that a policy can use, by name.
#[derive(Clone, Debug)]
pub struct Registry {
    entries: Vec<Entry>,
    modules: Vec<Module>,
    /// Those that were read.
    folders: Vec<PathBuf>,
}

impl Registry {
    /// The modules inside this binary.
    ///
    /// # Errors
    ///
    /// The binary was built wrong.
    pub fn builtin() -> Result<Self> {
        let mut registry = Self {
            entries: Vec::new(),
            modules: Vec::new(),
            folders: Vec::new(),
        };
        for (file, family, bytes) in MODULES.objects()? {
            let origin = format!("built-in {file}");
            registry.add(&origin, family, bytes.into())?;
        }
        registry.finish();
        Ok(registry)
    }

    /// Adds the modules of a folder: `<name>.xdp.o` and `<name>.tc.o`. A folder that was added
    /// already adds nothing.
    ///
    /// # Errors
    ///
    /// A file cannot be read or trusted, is no module, or has the name of another module.
    pub fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let real = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        if self.folders.contains(&real) {
            return Ok(());
        }
        for file in folder::read(folder)? {
            let origin = file.path.display().to_string();
            let name = self.add(&origin, file.family, file.bytes.into())?;
            let entry = self
                .entries
                .iter_mut()
                .find(|e| e.object.module.name == name);
            if let Some(entry) = entry {
                entry.files.push(file.path);
            }
        }
        self.folders.push(real);
        self.finish();
        Ok(())
    }

    /// Adds the modules of the folders that nobody need name ([`folder::FOLDERS`]). Returns what
    /// the caller should know: folders that he may not read.
    ///
    /// # Errors
    ///
    /// As of [`Registry::add_folder`]; a folder that is not there is none.
    pub fn add_default_folders(&mut self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        for folder in folder::FOLDERS {
            match self.add_folder(Path::new(folder)) {
                Ok(()) => {}
                Err(error) => match folder::excuse(&error) {
                    Some(io::ErrorKind::NotFound) => {}
                    Some(_) => notes.push(format!("{error:#}; its modules are not known here")),
                    None => return Err(error),
                },
            }
        }
        Ok(notes)
    }

    /// Adds an object; the name of its module.
    fn add(&mut self, origin: &str, family: Family, bytes: Cow<'static, [u8]>) -> Result<String> {
        let object =
            describe(&bytes, family).map_err(|problem| anyhow::anyhow!("{origin}: {problem}"))?;
        let stem = |origin: &str| {
            let origin = origin.strip_suffix(".o").unwrap_or(origin);
            origin
                .trim_end_matches(".xdp")
                .trim_end_matches(".tc")
                .to_owned()
        };
        let name = object.module.name.clone();
        let slot = match self
            .entries
            .iter_mut()
            .find(|e| e.object.module.name == name)
        {
            Some(entry) if stem(&entry.origin) != stem(origin) => {
                bail!(
                    "{origin}: module {name} is already there, from {}",
                    entry.origin
                )
            }
            Some(entry) if entry.object.module != object.module => {
                bail!(
                    "{origin}: module {name} describes itself otherwise than {}",
                    entry.origin
                )
            }
            Some(entry) => entry,
            None => {
                self.entries.push(Entry {
                    object,
                    origin: origin.to_owned(),
                    files: Vec::new(),
                    xdp: None,
                    tc: None,
                });
                let last = self.entries.len() - 1;
                &mut self.entries[last]
            }
        };
        match family {
            Family::Xdp => slot.xdp = Some(bytes),
            Family::Tc => slot.tc = Some(bytes),
        }
        Ok(name)
    }

    fn finish(&mut self) {
        self.entries
            .sort_by(|a, b| a.object.module.name.cmp(&b.object.module.name));
        self.modules = self
            .entries
            .iter()
            .map(|e| e.object.module.clone())
            .collect();
    }

    /// The descriptions, by name; the engine refers to a module by its index here.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// What the loader must know of a module.
    pub fn object(&self, index: usize) -> &Object {
        &self.entries[index].object
    }

    /// The files that a module comes from; none of one inside the binary.
    pub fn files(&self, index: usize) -> &[PathBuf] {
        &self.entries[index].files
    }

    /// The module's object for a family of hooks, if it has one.
    pub fn bytes(&self, index: usize, family: Family) -> Option<&[u8]> {
        let entry = &self.entries[index];
        match family {
            Family::Xdp => entry.xdp.as_deref(),
            Family::Tc => entry.tc.as_deref(),
        }
    }
}

/// A program to compare with, everything of a chain in one (`emptcp bench`); `None`: there is none
/// of this name.
///
/// # Errors
///
/// The binary was built wrong.
pub(crate) fn monolith(name: &str, family: Family) -> Result<Option<&'static [u8]>> {
    let found = MONOLITHS
        .objects()?
        .find(|(n, f, _)| *n == name && *f == family);
    Ok(found.map(|(_, _, bytes)| bytes))
}
