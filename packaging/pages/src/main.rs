// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Writes the manual pages and shell completions into a folder, in the tree of `$PREFIX/share`.
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
    let man = share.join("man/man8");
    create(&man)?;
    let mut whole = command();
    whole.build();
    page(&man, "emptcp", &whole)?;
    for verb in whole.get_subcommands().filter(|v| v.get_name() != "help") {
        page(&man, &format!("emptcp-{}", verb.get_name()), verb)?;
    }
    Ok(())
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn page(folder: &Path, name: &str, command: &clap::Command) -> Result<()> {
    let title = name.to_uppercase();
    let man = Man::new(command.clone())
        .title(title)
        .section("8")
        .manual("emptcp");
    let mut text = Vec::new();
    man.render(&mut text)?;
    let path = folder.join(format!("{name}.8"));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
