//! Files and directories of a policy.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use super::Diagnostic;
use super::Policy;

/// A file of a policy, not yet parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// How messages name it.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Reads and parses a file, or a directory of fragments.
///
/// # Errors
///
/// All that is wrong, sorted by place.
pub fn load(path: &Path) -> Result<Policy, Vec<Diagnostic>> {
    super::parse(&read_fragments(path)?)
}

/// Reads one file; `-` is standard input.
///
/// # Errors
///
/// It cannot be read.
pub fn read_one(path: &Path) -> Result<Fragment, Diagnostic> {
    let standard_input = path == Path::new("-");
    let name = if standard_input {
        "<stdin>".to_owned()
    } else {
        path.display().to_string()
    };
    let bytes = if standard_input {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    match bytes {
        Ok(bytes) => Ok(Fragment { name, bytes }),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    let message = format!("cannot be read: {error}");
    Diagnostic::of_file(path.display().to_string(), message)
}

/// Reads a file (`-`: standard input), or the fragments of a directory: its `*.json`, in the order of the bytes of
/// their names, without those whose name begins with a dot.
///
/// # Errors
///
/// What cannot be read; a directory without a fragment, which is more likely a
/// mistake than the wish to remove everything.
pub fn read_fragments(path: &Path) -> Result<Vec<Fragment>, Vec<Diagnostic>> {
    if path == Path::new("-") {
        return Ok(vec![read_one(path).map_err(|error| vec![error])?]);
    }
    let mut paths = Vec::new();
    if fs::metadata(path)
        .map_err(|error| vec![unreadable(path, &error)])?
        .is_dir()
    {
        for entry in fs::read_dir(path).map_err(|error| vec![unreadable(path, &error)])? {
            let found = entry
                .map_err(|error| vec![unreadable(path, &error)])?
                .path();
            let name = found.file_name().unwrap_or_default().as_encoded_bytes();
            if name.ends_with(b".json") && !name.starts_with(b".") {
                paths.push(found);
            }
        }
        if paths.is_empty() {
            let message = "the directory holds no *.json";
            return Err(vec![Diagnostic::of_file(
                path.display().to_string(),
                message,
            )]);
        }
        paths.sort();
    } else {
        paths.push(path.to_owned());
    }
    let mut fragments = Vec::new();
    let mut errors = Vec::new();
    for path in paths {
        match read_one(&path) {
            Ok(fragment) => fragments.push(fragment),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(fragments)
    } else {
        Err(errors)
    }
}
