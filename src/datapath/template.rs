//! Instructions of a module, from which its steps are made.

use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::ObjectBuilder;

use super::code::Code;
use super::code::Traits;
use crate::insn::Insn;
use crate::sys;
use crate::sys::Load;
use crate::sys::Prepared;

/// A module's (or the entry program's) instructions, ready to be copied.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) prepared: Prepared,
    /// Instructions that load a map: their index, index of the map, place in its value?
    loads: Vec<(usize, usize, bool)>,
    /// Index of the map of read-only data, and what it holds.
    pub(super) rodata: Option<(usize, Vec<u8>)>,
    pub(super) traits: Traits,
}

impl Template {
    pub(super) fn new(name: &str, object: &[u8]) -> Result<Self> {
        let object = ObjectBuilder::default()
            .name(name)?
            .open_memory(object)
            .with_context(|| format!("cannot open the object of {name}"))?;
        let prepared = sys::prepare(object)
            .with_context(|| format!("the kernel does not take the object of {name}"))?;
        let mut loads = Vec::new();
        let mut index = 0;
        while let Some(insn) = prepared.insns.get(index) {
            if let Some(value) = insn.loads_map() {
                let map = prepared.maps.iter().position(|m| m.number == insn.imm());
                let map = map.with_context(|| format!("{name} loads an unknown map"))?;
                loads.push((index, map, value));
            }
            index += if insn.is_wide() { 2 } else { 1 };
        }
        let rodata = prepared
            .maps
            .iter()
            .position(|m| m.name.ends_with(".rodata"))
            .and_then(|i| Some((i, prepared.maps[i].initial.clone()?)));
        Ok(Self {
            traits: Traits::of(&prepared.insns),
            prepared,
            loads,
            rodata,
        })
    }

    /// The instructions with other maps (by index) and with the read-only data at
    /// an offset of theirs.
    pub(super) fn instantiate(&self, numbers: &[i32], rodata_at: usize) -> Vec<Insn> {
        let mut insns = self.prepared.insns.clone();
        for (index, map, value) in &self.loads {
            insns[*index] = insns[*index].with_imm(numbers[*map]);
            if *value
                && self
                    .rodata
                    .as_ref()
                    .is_some_and(|(rodata, _)| rodata == map)
            {
                let second = insns[index + 1];
                insns[index + 1] = second.with_imm(second.imm() + rodata_at as i32);
            }
        }
        insns
    }

    /// Loads instructions of this module alone; `code`: where they are now.
    pub(super) fn load(
        &self,
        code: &Code,
        xdp: bool,
        frags: bool,
    ) -> Result<OwnedFd, sys::Refused> {
        sys::prog_load(&Load {
            name: &self.prepared.name,
            xdp,
            frags,
            insns: &code.insns,
            btf: self.prepared.btf.as_ref().map(|fd| fd.as_fd()),
            func_info: &self.prepared.func_info.moved_functions(&code.functions),
            line_info: &self.prepared.line_info.moved(&code.from, &code.functions),
            explain: true,
        })
    }
}
