// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Writes the manual pages and shell completions into a folder, in the tree of `$PREFIX/share`:
//! section 8 from the command line, the others from `docs/`.
//!
//! A program of its own, so that the one that is installed need not hold what writes them.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use clap_complete::Shell;
use clap_complete::generate_to;
use clap_mangen::Man;

/// Texts of `docs/` that are manual pages, too: name, section, Markdown.
const TEXTS: [(&str, u8, &str); 5] = [
    ("policy", 5, include_str!("../../../docs/policy.md")),
    ("events", 7, include_str!("../../../docs/events.md")),
    ("exec", 7, include_str!("../../../docs/exec.md")),
    ("modules", 7, include_str!("../../../docs/modules.md")),
    ("tracker", 7, include_str!("../../../docs/tracker.md")),
];

fn main() -> Result<()> {
    let share: PathBuf = std::env::args_os()
        .nth(1)
        .context("usage: emptcp-pages FOLDER")?
        .into();
    let command = emptcp::cli::command;
    for (shell, folder) in [
        (Shell::Bash, "bash-completion/completions"),
        (Shell::Zsh, "zsh/site-functions"),
        (Shell::Fish, "fish/vendor_completions.d"),
    ] {
        let folder = share.join(folder);
        create(&folder)?;
        let file = generate_to(shell, &mut command(), "emptcp", &folder)?;
        if shell == Shell::Bash {
            // It is looked up by the name of the command.
            fs::rename(file, folder.join("emptcp"))?;
        }
    }
    let man = share.join("man");
    let mut whole = command();
    whole.build();
    page(&man, "emptcp", 8, &of_command("emptcp", &whole)?)?;
    for verb in whole.get_subcommands().filter(|v| v.get_name() != "help") {
        let name = format!("emptcp-{}", verb.get_name());
        page(&man, &name, 8, &of_command(&name, verb)?)?;
    }
    for (name, section, text) in TEXTS {
        let name = format!("emptcp-{name}");
        page(&man, &name, section, &of_text(&name, section, text)?)?;
    }
    Ok(())
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn page(man: &Path, name: &str, section: u8, text: &[u8]) -> Result<()> {
    let folder = man.join(format!("man{section}"));
    create(&folder)?;
    let path = folder.join(format!("{name}.{section}"));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn of_command(name: &str, command: &clap::Command) -> Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("8")
        .manual("emptcp");
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok(text)
}

/// Its title becomes what `whatis` says of the page, its links names of pages.
fn of_text(name: &str, section: u8, text: &str) -> Result<Vec<u8>> {
    let begin = text.find("# ").context("a text begins with its title")?;
    let (title, text) = text[begin + 2..].split_once('\n').unwrap_or_default();
    let text = format!(
        "# NAME\n\n{name} - {title}\n\n# DESCRIPTION\n{}",
        linked(&defined(text))
    );
    Ok(mandown::convert(&text, &name.to_uppercase(), section).into_bytes())
}

/// `[words](exec.md#place)` as `words (emptcp-exec(7))`; what is no page goes by its file.
fn linked(text: &str) -> String {
    let mut linked = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, behind)) = after.split_once(')') else {
            break;
        };
        rest = behind;
        let file = target.split('#').next().unwrap_or_default();
        let page = TEXTS
            .iter()
            .find(|(name, ..)| file == format!("{name}.md"))
            .map_or(file.to_owned(), |(name, section, _)| {
                format!("emptcp-{name}({section})")
            });
        let (before, words) = before.rsplit_once('[').unwrap_or((before, ""));
        linked.push_str(before);
        // Named by its file, or within this text.
        match (words == file, page.as_str()) {
            (true, page) => linked.push_str(page),
            (false, "") => linked.push_str(words),
            (false, page) => linked.push_str(&format!("{words} ({page})")),
        }
    }
    linked + rest
}

/// Tables as lists of definitions: a terminal is too narrow for them. The first column is defined by
/// the others.
fn defined(text: &str) -> String {
    let mut defined = String::new();
    let mut row = 0;
    for line in text.lines() {
        let cells = line.strip_prefix('|').and_then(|l| l.strip_suffix('|'));
        let Some(cells) = cells else {
            row = 0;
            defined.push_str(line);
            defined.push('\n');
            continue;
        };
        row += 1;
        // Heads, and the line below them.
        if row <= 2 {
            continue;
        }
        let mut cells = cells.split('|').map(str::trim);
        let term = cells.next().unwrap_or_default();
        let others: Vec<&str> = cells.filter(|cell| !cell.is_empty()).collect();
        defined.push_str(&format!("\n{term}\n: {}\n", others.join("; ")));
    }
    defined
}
