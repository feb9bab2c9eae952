//! The policies that the tree shows: those of `examples/`, and the blocks of the documentation that
//! begin with "```json policy".

use std::fs;
use std::path::Path;
use std::path::PathBuf;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files of a folder with an ending, sorted.
pub(crate) fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    files
}

pub(crate) fn pages() -> Vec<PathBuf> {
    let mut pages = files("docs", ".md");
    pages.push(root().join("README.md"));
    pages.push(root().join("CONTRIBUTING.md"));
    pages
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All of them, with a name fit for a file.
pub(crate) fn all() -> Vec<(String, String)> {
    let stem = |path: &Path| {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let mut examples = files("examples", ".json");
    examples.extend(files("examples/exec", ".json"));
    assert!(!examples.is_empty());
    let mut found: Vec<_> = examples
        .iter()
        .map(|path| (format!("examples-{}", stem(path)), read(path)))
        .collect();
    let shown = found.len();
    for page in pages() {
        let text = read(&page);
        for (index, block) in text.split("```json policy\n").skip(1).enumerate() {
            let block = block.split("```").next().unwrap_or_default();
            found.push((format!("docs-{}-{index}", stem(&page)), block.to_owned()));
        }
    }
    assert!(found.len() > shown, "no page shows a policy");
    found
}
