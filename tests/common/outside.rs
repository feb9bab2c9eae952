//! Modules from outside: compiled as third parties do, by the Makefile of
//! `examples/module`, against the headers only.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// The folder of a path of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compiles what `targets` name (`ttl.tc.o`) from sources of this folder of the project into a
/// folder, which is made where it is missing.
pub fn compile(sources: &str, to: &Path, targets: &[&str]) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    for target in targets {
        let name = target.split('.').next().unwrap();
        let source = root().join(sources).join(format!("{name}.bpf.c"));
        let copy = to.join(format!("{name}.bpf.c"));
        fs::copy(&source, copy).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    }
    make(to, targets);
}

/// Runs the example's Makefile in a folder.
pub fn make(folder: &Path, targets: &[&str]) {
    libbpf_headers(folder);
    let mut make = Command::new("make");
    make.arg("-C").arg(folder).arg("-f");
    make.arg(root().join("examples/module/Makefile"));
    make.arg(format!(
        "EMPTCP_INCLUDE={}",
        root().join("include").display()
    ));
    make.args(targets)
        .env("CLANG", clang())
        .env("CPPFLAGS", "-I libbpf");
    let output = make.output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{make:?}:\n{messages}");
    assert_eq!(messages, "", "{make:?}");
}

/// `$CLANG`, else the newest known clang in the path, as in `build.rs`.
pub fn clang() -> OsString {
    if let Some(clang) = std::env::var_os("CLANG") {
        return clang;
    }
    let path = std::env::var_os("PATH").unwrap();
    (16..=24)
        .rev()
        .map(|version| format!("clang-{version}"))
        .find(|name| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
        .unwrap_or_else(|| "clang".to_owned())
        .into()
}

/// A folder in this one with `bpf/bpf_helpers.h` and its like, which libbpf-sys brings along.
pub fn libbpf_headers(to: &Path) -> PathBuf {
    let folder = to.join("libbpf");
    if !folder.exists() {
        fs::create_dir_all(folder.join("bpf")).unwrap();
        for (name, contents) in libbpf_sys::API_HEADERS {
            fs::write(folder.join("bpf").join(name), contents).unwrap();
        }
    }
    folder
}
