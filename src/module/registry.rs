//! The modules that are there: those inside the binary, and those in folders.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use libbpf_rs::btf::Btf;

use super::Hook;
use super::Module;
use super::Type;
use super::btf;

include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// Hooks that one object serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// XDP.
    Xdp,
    /// tc ingress and egress.
    Tc,
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
    /// What its keys hold; empty where that cannot be shown.
    pub key: Vec<Field>,
    /// What its values hold; empty where that cannot be shown.
    pub value: Vec<Field>,
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
}

impl MapInfo {
    /// Members of its keys, then of its values.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.key.iter().chain(&self.value)
    }
}

/// Maps that every step gets from the engine, by their names in `maps.h`.
const ENGINE_MAPS: [&str; 4] = ["progs", "counters", "reasons", "chain_words"];

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

/// One module: its description and its objects.
#[derive(Clone, Debug)]
struct Entry {
    object: Object,
    /// Where it comes from, for messages.
    origin: String,
    xdp: Option<Vec<u8>>,
    tc: Option<Vec<u8>>,
}

/// All modules that a policy can use, by name.
#[derive(Clone, Debug)]
pub struct Registry {
    entries: Vec<Entry>,
    modules: Vec<Module>,
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
        };
        for (file, family, bytes) in MODULES {
            let origin = format!("built-in {file}");
            registry.add(&origin, *family, bytes)?;
        }
        registry.finish();
        Ok(registry)
    }

    /// Adds the modules of a folder: `<name>.xdp.o` and `<name>.tc.o`.
    ///
    /// # Errors
    ///
    /// A file cannot be read, is no module, or has the name of another module.
    pub fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let entries = fs::read_dir(folder)
            .with_context(|| format!("cannot read the folder of modules {}", folder.display()))?;
        let mut files = Vec::new();
        for entry in entries {
            files.push(entry?.path());
        }
        files.sort();
        for file in files {
            let name = file.to_string_lossy();
            let family = match () {
                () if name.ends_with(".xdp.o") => Family::Xdp,
                () if name.ends_with(".tc.o") => Family::Tc,
                () => continue,
            };
            let bytes =
                fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            self.add(&file.display().to_string(), family, &bytes)?;
        }
        self.finish();
        Ok(())
    }

    fn add(&mut self, origin: &str, family: Family, bytes: &[u8]) -> Result<()> {
        let btf = Btf::from_raw("module", bytes)
            .with_context(|| format!("{origin}: cannot be opened as a BPF object"))?
            .with_context(|| format!("{origin}: has no BTF (compile with -g)"))?;
        let object = btf::read(&btf).map_err(|problem| anyhow::anyhow!("{origin}: {problem}"))?;
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
                    xdp: None,
                    tc: None,
                });
                let last = self.entries.len() - 1;
                &mut self.entries[last]
            }
        };
        match family {
            Family::Xdp => slot.xdp = Some(bytes.to_vec()),
            Family::Tc => slot.tc = Some(bytes.to_vec()),
        }
        Ok(())
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

    /// The module's object for a family of hooks, if it has one.
    pub fn bytes(&self, index: usize, family: Family) -> Option<&[u8]> {
        let entry = &self.entries[index];
        match family {
            Family::Xdp => entry.xdp.as_deref(),
            Family::Tc => entry.tc.as_deref(),
        }
    }
}

/// Programs to compare with: everything of a chain in one (`emptcp bench`).
pub(crate) fn monoliths() -> &'static [(&'static str, Family, &'static [u8])] {
    MONOLITHS
}
