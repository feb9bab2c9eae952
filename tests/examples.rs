//! What the documentation shows is true: policies are accepted, the module outside of the
//! tree compiles, links lead somewhere.

mod policies;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use emptcp_test::outside::compile;
use policies::pages;
use policies::read;
use policies::root;

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

#[test]
fn policies_are_accepted() {
    for (name, text) in policies::all() {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
        fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_accepted(&name, &file);
    }
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
