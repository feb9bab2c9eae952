//! What the kernel holds of one policy, whoever else loads programs meanwhile.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use libbpf_rs::MapCore as _;
use libbpf_rs::MapHandle;
use libbpf_rs::query::LinkInfoIter;
use libbpf_rs::query::MapInfoIter;
use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::query::ProgInfoQueryOptions;

use super::rig::BpfFs;

/// Names of the maps that all programs of a policy share, by their pins.
const SHARED: [&str; 3] = ["generation", "reasons", "counters-0"];

/// Programs, maps and links of one policy.
///
/// Its programs are those that use a map that is pinned by it alone; its maps are those that
/// such programs use, and those of its tables, by names that no other test has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    programs: usize,
    maps: usize,
    links: usize,
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            programs,
            maps,
            links,
        } = self;
        write!(f, "{programs} programs, {maps} maps, {links} links")
    }
}

impl Loaded {
    /// Ids of the maps that tell the programs of the only policy whose pins are there.
    pub(crate) fn shared(bpffs: &BpfFs) -> BTreeSet<u32> {
        let home = std::fs::read_dir(bpffs.path.join("emptcp/v1")).unwrap();
        let home = home.map(|e| e.unwrap().path()).next().unwrap();
        SHARED.map(|name| id(&home.join(name))).into()
    }

    /// By the maps of a policy, which may be gone, and the names of its tables.
    pub(crate) fn by(shared: &BTreeSet<u32>, tables: &[String]) -> Self {
        let options = ProgInfoQueryOptions::default().include_map_ids(true);
        let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
        for program in ProgInfoIter::with_query_opts(options) {
            if program.map_ids.iter().any(|id| shared.contains(id)) {
                programs.insert(program.id);
                maps.extend(program.map_ids);
            }
        }
        for map in MapInfoIter::default() {
            let name = map.name.to_string_lossy();
            if shared.contains(&map.id) || tables.iter().any(|table| *table == name) {
                maps.insert(map.id);
            }
        }
        let links = LinkInfoIter::default();
        Self {
            programs: programs.len(),
            maps: maps.len(),
            links: links.filter(|l| programs.contains(&l.prog_id)).count(),
        }
    }
}

fn id(pin: &Path) -> u32 {
    MapHandle::from_pinned_path(pin)
        .unwrap()
        .info()
        .unwrap()
        .info
        .id
}
