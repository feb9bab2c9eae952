//! Compiles the BPF programs: a skeleton for the entry program, from which the
//! structures shared with it are taken too, and one object for each module and
//! family of hooks that it declares. These are packed (`src/module/packed.rs`).

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use elf::ElfBytes;
use elf::endian::NativeEndian;
use libbpf_cargo::SkeletonBuilder;
use lz4::block::CompressionMode;

/// Families of hooks: what to define, and what stands in a source that is not for it.
const FAMILIES: [(&str, &str, &str); 2] = [
    ("xdp", "-DEMPTCP_XDP", "EMPTCP_HOOKS_TC"),
    ("tc", "-DEMPTCP_TC", "EMPTCP_HOOKS_XDP"),
];

/// Folders of programs, and the static that holds their objects.
const FOLDERS: [(&str, &str); 3] = [
    ("bpf/selectors", "MODULES"),
    ("bpf/actors", "MODULES"),
    ("benches/bpf", "MONOLITHS"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for watched in ["include", "bpf", "benches/bpf"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");

    for (family, define, _) in FAMILIES {
        let object = out.join(format!("entry.{family}.o"));
        let mut entry = compiler(&root, define);
        entry.source(root.join("bpf/entry.bpf.c")).obj(&object);
        entry.build()?;
        fs::write(&object, finished(&object)?)?;
        entry.generate(out.join(format!("entry_{family}.skel.rs")))?;
    }

    let mut table = String::new();
    for constant in ["MODULES", "MONOLITHS"] {
        let mut pack = Pack::default();
        for (folder, _) in FOLDERS.iter().filter(|(_, c)| *c == constant) {
            for source in sources(&root.join(folder))? {
                objects(&root, &out, &source, &mut pack)?;
            }
        }
        pack.write(&out.join(format!("{constant}.lz4")), constant, &mut table)?;
    }
    fs::write(out.join("objects.rs"), table)?;
    Ok(())
}

/// Objects one behind the other, and the lines of the table that says where each is.
#[derive(Default)]
struct Pack {
    bytes: Vec<u8>,
    lines: String,
}

impl Pack {
    fn add(&mut self, name: &str, variant: &str, object: &[u8]) -> Result<(), Box<dyn Error>> {
        // libelf copies sections that are not aligned.
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let (at, len) = (self.bytes.len(), object.len());
        self.bytes.extend(object);
        writeln!(
            self.lines,
            "        ({name:?}, Family::{variant}, {at}, {len}),"
        )?;
        Ok(())
    }

    /// Writes the block, and the static that includes it.
    fn write(&self, file: &Path, constant: &str, table: &mut String) -> Result<(), Box<dyn Error>> {
        let mode = CompressionMode::HIGHCOMPRESSION(12);
        fs::write(file, lz4::block::compress(&self.bytes, Some(mode), false)?)?;
        write!(
            table,
            "static {constant}: Packed = Packed {{\n    block: include_bytes!({file:?}),\n    \
             len: {},\n    objects: &[\n{}    ],\n    unpacked: OnceLock::new(),\n}};\n",
            self.bytes.len(),
            self.lines
        )?;
        Ok(())
    }
}

/// The programs of a folder, by name.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".bpf.c") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Compiles a module for each family of hooks that it is for, and packs the objects.
fn objects(root: &Path, out: &Path, source: &Path, pack: &mut Pack) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(source)?;
    let file = source
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let name = file.trim_end_matches(".bpf.c");
    for (family, define, excluded) in FAMILIES {
        if text.contains(excluded) {
            continue;
        }
        let object = out.join(format!("{name}.{family}.o"));
        compiler(root, define).source(source).obj(&object).build()?;
        let variant = if family == "xdp" { "Xdp" } else { "Tc" };
        pack.add(name, variant, &finished(&object)?)?;
    }
    Ok(())
}

/// Whether the program is to be small, rather than to show lines of C in the verifier's log.
fn is_small() -> bool {
    env::var("PROFILE").is_ok_and(|profile| profile == "release")
}

/// The object as it goes into the program: a small one without the numbers of its lines (struct
/// `btf_ext_header` of libbpf), of which there are as many bytes as of code. libbpf takes a length
/// of 0 for none; zeros take no room when they are packed.
fn finished(object: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    const LINE_INFO_OFF: usize = 16;
    const LINE_INFO_LEN: usize = 20;

    let mut bytes = fs::read(object)?;
    if !is_small() {
        return Ok(bytes);
    }
    let elf = ElfBytes::<NativeEndian>::minimal_parse(&bytes)?;
    let section = elf.section_header_by_name(".BTF.ext")?;
    let section = section.ok_or("an object without .BTF.ext")?;
    let ext = bytes
        .get_mut(section.sh_offset as usize..)
        .ok_or("a truncated object")?;
    let number =
        |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(*ext.get(at..)?.first_chunk()?)) };
    let lines = || {
        let header = number(4)? as usize;
        let off = header + number(LINE_INFO_OFF)? as usize;
        Some(off..off + number(LINE_INFO_LEN)? as usize)
    };
    let lines = lines().ok_or("a truncated .BTF.ext")?;
    ext.get_mut(lines).ok_or("a truncated .BTF.ext")?.fill(0);
    ext[LINE_INFO_LEN..LINE_INFO_LEN + 4].fill(0);
    Ok(bytes)
}

/// The compiler with the flags that all programs share.
fn compiler(root: &Path, define: &str) -> SkeletonBuilder {
    let mut builder = SkeletonBuilder::new();
    builder.clang(clang());
    let mut args: Vec<OsString> = ["-Wall", "-Werror", "-mcpu=v3", define, "-I"]
        .into_iter()
        .map(OsString::from)
        .collect();
    args.push(root.join("include").into());
    // The uapi headers of Debian and its like: asm/ lies in a folder of the architecture.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if is_small() {
        // Clang copies lines of C that it finds into BTF.
        args.push(format!("-ffile-prefix-map={}=emptcp", root.display()).into());
    }
    args.push("-idirafter".into());
    args.push(format!("/usr/include/{arch}-linux-gnu").into());
    builder.clang_args(args);
    builder
}

/// `$CLANG`, else the newest known clang in the path.
fn clang() -> PathBuf {
    if let Some(clang) = env::var_os("CLANG") {
        return clang.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let versions = (16..=24).rev().map(|v| format!("clang-{v}"));
    versions
        .flat_map(|name| env::split_paths(&path).map(move |dir| dir.join(&name)))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| "clang".into())
}
