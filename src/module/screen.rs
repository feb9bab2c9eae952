//! What is refused before libbpf sees it: files that are no BPF object, or one
//! that hostile hands have made. libelf and libbpf take much on trust: sections
//! behind the end of the file, and types that contain themselves, on which libbpf
//! never returns.

use elf::ElfBytes;
use elf::abi::EM_BPF;
use elf::abi::ET_REL;
use elf::abi::SHF_EXECINSTR;
use elf::abi::SHT_NOBITS;
use elf::abi::STT_FUNC;
use elf::endian::NativeEndian;
use elf::file::Class;

use super::Family;

/// Why an object is refused; fit for a person who wrote it.
type Problem = String;

/// What the kernel takes for compatible with the GPL (`license_is_gpl_compatible()`).
const LICENCES: [&str; 6] = [
    "GPL",
    "GPL v2",
    "GPL and additional rights",
    "Dual BSD/GPL",
    "Dual MIT/GPL",
    "Dual MPL/GPL",
];

/// How deep types may lie inside of each other, as in the kernel.
const DEEPEST: usize = 32;

/// Looks at the object of a module for a family of hooks.
///
/// # Errors
///
/// It is none, or a damaged one.
pub(super) fn screen(bytes: &[u8], family: Family) -> Result<(), Problem> {
    let elf = ElfBytes::<NativeEndian>::minimal_parse(bytes)
        .map_err(|e| format!("is no ELF object, or a truncated one ({e})"))?;
    if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_BPF || elf.ehdr.e_type != ET_REL {
        return Err("is no BPF object: compile it with clang -target bpf -c".to_owned());
    }
    let sections = Sections::read(&elf)?;
    sections.program(&elf, family)?;
    let licence = sections.named("license").unwrap_or_default();
    let licence = licence.strip_suffix(b"\0").unwrap_or(licence);
    if !LICENCES.iter().any(|l| l.as_bytes() == licence) {
        return Err(format!(
            "has the licence {:?}: the kernel's helpers want one that is compatible with the GPL: \
             {}",
            String::from_utf8_lossy(licence),
            LICENCES.join(", ")
        ));
    }
    let btf = sections.named(".BTF");
    let btf = btf.ok_or("has no BTF: compile it with clang -g")?;
    Types::read(btf)
        .and_then(|types| types.check())
        .ok_or_else(|| "has damaged BTF".to_owned())
}

/// The sections of an object: name, flags, contents.
struct Sections<'a>(Vec<(&'a str, u64, &'a [u8])>);

impl<'a> Sections<'a> {
    fn read(elf: &ElfBytes<'a, NativeEndian>) -> Result<Self, Problem> {
        let damaged = |e| format!("is a truncated or damaged ELF object ({e})");
        let (headers, names) = elf.section_headers_with_strtab().map_err(damaged)?;
        let (Some(headers), Some(names)) = (headers, names) else {
            return Err("is an ELF object without sections".to_owned());
        };
        let mut sections = Vec::new();
        for header in headers {
            let name = names.get(header.sh_name as usize).map_err(damaged)?;
            let data = match header.sh_type {
                // It takes up no place in the file, but libbpf makes room for it.
                SHT_NOBITS if header.sh_size > MOST_BYTES => {
                    return Err(format!("has a section {name} of {} bytes", header.sh_size));
                }
                SHT_NOBITS => &[],
                _ => elf.section_data(&header).map_err(damaged)?.0,
            };
            sections.push((name, header.sh_flags, data));
        }
        Ok(Self(sections))
    }

    fn named(&self, wanted: &str) -> Option<&'a [u8]> {
        let found = self.0.iter().find(|(name, ..)| *name == wanted);
        found.map(|(_, _, data)| *data)
    }

    /// One program, in the section of its family.
    fn program(&self, elf: &ElfBytes<'_, NativeEndian>, family: Family) -> Result<(), Problem> {
        let wanted = family.section();
        let mut found = None;
        for (index, (name, flags, data)) in self.0.iter().enumerate() {
            let is_code = flags & u64::from(SHF_EXECINSTR) != 0 && !data.is_empty();
            // Functions that programs call.
            if !is_code || *name == ".text" {
                continue;
            }
            if *name != wanted {
                return Err(format!(
                    "has a program in the section {name:?}; in a file NAME.{wanted}.o it is in \
                     {wanted:?}: compile it with -DEMPTCP_{}, and declare it with EMPTCP_SELECTOR \
                     or EMPTCP_ACTOR",
                    wanted.to_uppercase()
                ));
            }
            found = Some(index);
        }
        let Some(section) = found else {
            return Err(format!("has no program in the section {wanted:?}"));
        };
        let damaged = |e| format!("is a truncated or damaged ELF object ({e})");
        let (symbols, names) = elf
            .symbol_table()
            .map_err(damaged)?
            .ok_or("has no symbols")?;
        let mut programs = Vec::new();
        for symbol in symbols {
            if symbol.st_symtype() == STT_FUNC && usize::from(symbol.st_shndx) == section {
                programs.push(names.get(symbol.st_name as usize).map_err(damaged)?);
            }
        }
        match programs.as_slice() {
            [_] => Ok(()),
            [] => Err(format!("has no program in the section {wanted:?}")),
            many => Err(format!(
                "holds several programs, {}: one object holds one",
                many.join(", ")
            )),
        }
    }
}

/// Largest section of zeros that a module may have.
const MOST_BYTES: u64 = 16 << 20;

/// The types of BTF: for each (from number 1 on) those that lie inside of it.
struct Types(Vec<Vec<u32>>);

impl Types {
    /// `None`: it ends within a type, or has one that nobody knows.
    fn read(btf: &[u8]) -> Option<Self> {
        let word =
            |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(*btf.get(at..)?.first_chunk()?)) };
        // struct btf_header: magic, version and flags; length; offset and length of the types.
        let [length, offset, size] = [word(4)?, word(8)?, word(12)?].map(|n| n as usize);
        let mut at = length.checked_add(offset)?;
        let end = at.checked_add(size)?;
        btf.get(at..end)?;
        let mut types = vec![Vec::new()];
        while at < end {
            // struct btf_type: name, kind and number of members, size or type.
            let info = word(at + 4)?;
            let (kind, members) = (info >> 24 & 0x1f, info as usize & 0xffff);
            let of = word(at + 8)?;
            at += 12;
            let mut inside = Vec::new();
            let behind = match kind {
                // Pointers, forward declarations, functions, floats: nothing lies inside.
                2 | 7 | 12 | 16 => 0,
                // Integers, tags of declarations.
                1 | 17 => 4,
                // Arrays: type of the items, of the index, number.
                3 => {
                    inside.push(word(at)?);
                    12
                }
                // Structures and unions: name, type, offset of each member.
                4 | 5 => {
                    for member in 0..members {
                        inside.push(word(at + member * 12 + 4)?);
                    }
                    members * 12
                }
                // Enums, prototypes of functions.
                6 | 13 => members * 8,
                // Names for types, volatile, const, restrict, tags of types.
                8..=11 | 18 => {
                    inside.push(of);
                    0
                }
                // Variables.
                14 => {
                    inside.push(of);
                    4
                }
                // Data sections, enums of 64 bits.
                15 | 19 => members * 12,
                _ => return None,
            };
            at += behind;
            types.push(inside);
        }
        (at == end).then_some(Self(types))
    }

    /// `None`: a type contains itself, or others too deep.
    fn check(&self) -> Option<()> {
        let mut seen = vec![None; self.0.len()];
        for id in 0..self.0.len() {
            self.depth(id, &mut seen, DEEPEST)?;
        }
        Some(())
    }

    /// How deep types lie in this one, `left` at most.
    fn depth(&self, id: usize, seen: &mut [Option<usize>], left: usize) -> Option<usize> {
        if let Some(depth) = *seen.get(id)? {
            return (depth <= left).then_some(depth);
        }
        let mut depth = 0;
        for inside in self.0.get(id)? {
            let inside = self.depth(*inside as usize, seen, left.checked_sub(1)?)?;
            depth = depth.max(inside + 1);
        }
        seen[id] = Some(depth);
        Some(depth)
    }
}

#[cfg(test)]
mod tests {
    use super::Types;

    /// BTF of these types: info and size-or-type of each, and what is behind.
    fn btf(types: &[(u32, u32, &[u32])]) -> Vec<u8> {
        let mut words: Vec<u32> = Vec::new();
        for (info, of, behind) in types {
            words.extend([0, *info, *of]);
            words.extend(*behind);
        }
        let size = words.len() as u32 * 4;
        let header = [0x0001_eb9f, 24, 0, size, size, 0];
        let all = header.into_iter().chain(words);
        all.flat_map(u32::to_ne_bytes).collect()
    }

    fn is_good(types: &[(u32, u32, &[u32])]) -> bool {
        let bytes = btf(types);
        Types::read(&bytes).and_then(|t| t.check()).is_some()
    }

    const INT: (u32, u32, &[u32]) = (1 << 24, 4, &[32]);

    #[test]
    fn types_that_contain_themselves_are_refused() {
        assert!(is_good(&[INT, (8 << 24, 1, &[])]));
        // A pointer to oneself is no containment: the list of all lists.
        assert!(is_good(&[(4 << 24 | 1, 8, &[0, 2, 0]), (2 << 24, 1, &[])]));
        // typedef of itself; structure in itself; array of itself, through a typedef.
        assert!(!is_good(&[INT, (8 << 24, 2, &[])]));
        assert!(!is_good(&[(4 << 24 | 1, 8, &[0, 1, 0])]));
        assert!(!is_good(&[(3 << 24, 0, &[2, 2, 1]), (8 << 24, 1, &[])]));
        // A type that is not there, one of no kind, one cut off.
        assert!(!is_good(&[(8 << 24, 9, &[])]));
        assert!(!is_good(&[(31 << 24, 0, &[])]));
        assert!(!is_good(&[(4 << 24 | 5, 8, &[0, 0, 0])]));
        // 32 typedefs of each other are too many with the number they stand for.
        let chain = |n: u32| -> Vec<(u32, u32, &[u32])> {
            let typedefs = (1..=n).map(|of| (8 << 24, of, &[][..]));
            std::iter::once(INT).chain(typedefs).collect()
        };
        assert!(is_good(&chain(32)));
        assert!(!is_good(&chain(33)));
    }
}
