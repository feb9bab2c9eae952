//! `emptcp doctor`

use anyhow::Result;
use serde_json::json;

use super::Context;
use super::Done;
use super::print_json;
use crate::doctor::Finding;
use crate::doctor::examine;
use crate::doctor::is_able;

pub(super) fn run(context: &Context) -> Result<Done> {
    let findings = examine(context.registry.modules());
    let able = is_able(&findings);
    if context.json {
        print_json(&json!({ "able": able, "checks": findings }))?;
    } else {
        print(&findings);
    }
    Ok(if able { Done::Yes } else { Done::Unable })
}

fn print(findings: &[Finding]) {
    let width = findings.iter().map(|f| f.check.len()).max().unwrap_or(0);
    let mut before = "";
    for finding in findings {
        let check = if finding.check == before {
            ""
        } else {
            finding.check
        };
        before = finding.check;
        println!(
            "{:<7} {check:<width$}  {}",
            finding.verdict.name(),
            finding.found
        );
        let indent = " ".repeat(8 + width + 2);
        for text in finding.means.iter() {
            println!("{indent}{text}");
        }
        if let Some(cure) = &finding.cure {
            println!("{indent}→ {cure}");
        }
    }
}
