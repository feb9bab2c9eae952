//! What the documentation shows is true: policies are accepted, the module outside of the
//! tree compiles, links lead somewhere.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use emptcp_test::outside::compile;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `emptcp check` for another machine, so that no interface need exist here.
fn check(policy: &Path, modules: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emptcp"));
    if let Some(folder) = modules {
        command.arg("--modules").arg(folder);
    }
    let output = command
        .args(["check", "--kernel", "6.12"])
        .arg(policy)
        .output();
    output.unwrap_or_else(|e| panic!("cannot run emptcp: {e}"))
}

fn assert_accepted(what: &str, policy: &Path) {
    let output = check(policy, None);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {errors}");
}

/// Files of a folder with an ending, sorted.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    files
}

fn pages() -> Vec<PathBuf> {
    let mut pages = files("docs", ".md");
    pages.push(root().join("README.md"));
    pages.push(root().join("CONTRIBUTING.md"));
    pages
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn examples_are_accepted() {
    let examples = files("examples", ".json");
    assert!(!examples.is_empty());
    for example in examples {
        assert_accepted(&example.display().to_string(), &example);
    }
}

/// Blocks that begin with "```json policy" are whole policies.
#[test]
fn policies_in_the_documentation_are_accepted() {
    let mut found = 0;
    for page in pages() {
        let text = read(&page);
        for (index, block) in text.split("```json policy\n").skip(1).enumerate() {
            let block = block.split("```").next().unwrap_or_default();
            let name = page.file_stem().unwrap_or_default().to_string_lossy();
            let file =
                Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("docs-{name}-{index}.json"));
            fs::write(&file, block).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert_accepted(&format!("{}, policy {}", page.display(), index + 1), &file);
            found += 1;
        }
    }
    assert!(found > 0, "no page shows a policy");
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = read(&page);
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let target = page.parent().unwrap_or(root()).join(path);
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
        }
    }
}

/// docs/writing-modules.md, step by step.
#[test]
fn a_module_of_ones_own_is_found() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs-modules");
    let source = root().join("examples/module/ttl.bpf.c");
    assert!(
        read(&root().join("docs/writing-modules.md")).contains(
            read(&source)
                .split_once("*/\n")
                .map_or("", |(_, code)| code.trim())
        ),
        "docs/writing-modules.md shows another module than {}",
        source.display()
    );
    let example = root().join("examples/module");
    compile("examples/module", &folder, &["ttl.xdp.o", "ttl.tc.o"]);
    let policy = example.join("policy.json");
    let output = check(&policy, Some(&folder));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    // Without the folder nobody knows it.
    assert!(!check(&policy, None).status.success());
}
