//! Network namespaces, named as `ip netns` names them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where `ip netns` keeps its names.
pub const DIRECTORY: &str = "/run/netns";

/// Names the prefix of the lab in whose environment a command runs.
pub const PREFIX_VARIABLE: &str = "EMPTCP_LAB_PREFIX";

/// The file of a namespace.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// The full name for `name`: itself where there is such a namespace, else with the prefix of the
/// surrounding lab (`EMPTCP_LAB_PREFIX`).
pub fn resolve(name: &str) -> String {
    match std::env::var(PREFIX_VARIABLE) {
        Ok(prefix) if !path(name).exists() => format!("{prefix}{name}"),
        _ => name.to_owned(),
    }
}

/// Moves the calling thread to a namespace. Neither a mount namespace is made nor `/sys` mounted
/// anew, so mounts below it (bpffs) stay visible.
pub fn enter(name: &str) -> Result<()> {
    let file = File::open(path(name))
        .with_context(|| format!("there is no network namespace \"{name}\""))?;
    setns(&file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the network namespace \"{name}\" (needs root)"))
}

/// Runs `work` in a thread inside a namespace; the caller's thread stays where it is. Sockets and
/// files opened by `work` belong to the namespace for good, and commands started by it run there.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(name)?;
            Ok(work())
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Starts a command inside a namespace.
pub fn spawn(name: &str, command: &mut Command) -> Result<Child> {
    let program = command.get_program().display().to_string();
    within(name, || command.spawn())?.with_context(|| format!("cannot start {program}"))
}

/// Makes a namespace.
pub(crate) fn add(name: &str) -> Result<()> {
    run_ip(&["netns", "add", name])
}

/// Ends what runs in a namespace (SIGTERM, after a second SIGKILL) and removes its name.
pub(crate) fn delete(name: &str) -> Result<()> {
    end_processes(name);
    run_ip(&["netns", "del", name])
}

/// Names of all namespaces that begin with `prefix`.
pub(crate) fn list(prefix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {DIRECTORY}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && name.starts_with(prefix)
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn end_processes(name: &str) {
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut signal = Signal::SIGTERM;
    let mut sent = Vec::new();
    loop {
        let processes = processes(name);
        if processes.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            if signal == Signal::SIGKILL {
                return;
            }
            signal = Signal::SIGKILL;
            sent.clear();
        }
        for process in processes {
            if !sent.contains(&process) {
                // It may have ended by itself.
                let _ = kill(process, signal);
                sent.push(process);
            }
        }
        if signal == Signal::SIGKILL && Instant::now() > deadline + Duration::from_secs(2) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Processes in a namespace, without this one.
fn processes(name: &str) -> Vec<Pid> {
    let Ok(wanted) = fs::metadata(path(name)) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| *pid != std::process::id() as i32)
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|file| (file.dev(), file.ino()) == (wanted.dev(), wanted.ino()))
        })
        .map(Pid::from_raw)
        .collect()
}

/// Runs `ip` with arguments.
fn run_ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run ip (is iproute2 installed?)")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Runs lines of `ip -batch` in a namespace, with `-4` or `-6` where the family matters.
pub(crate) fn ip_batch(name: &str, family: Option<&str>, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut child = spawn(
        name,
        Command::new("ip")
            .args(family)
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped()),
    )
    .context("is iproute2 installed?")?;
    if let Some(mut input) = child.stdin.take() {
        // A refused line ends ip early; its message says more than a broken pipe.
        let _ = input.write_all((lines.join("\n") + "\n").as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    // "Command failed -:7"
    let line = message
        .lines()
        .filter_map(|line| {
            line.strip_prefix("Command failed -:")?
                .trim()
                .parse::<usize>()
                .ok()
        })
        .filter_map(|number| lines.get(number.checked_sub(1)?))
        .next()
        .map_or("ip -batch", String::as_str);
    bail!("in {name}: ip {line}: {}", message.trim())
}

/// Writes sysctls in a namespace.
pub(crate) fn write_sysctls(name: &str, values: &[(String, String)]) -> Result<()> {
    within(name, || {
        for (key, value) in values {
            let file = if key.contains('/') {
                key.clone()
            } else {
                key.replace('.', "/")
            };
            let file = Path::new("/proc/sys").join(file);
            fs::write(&file, value)
                .with_context(|| format!("in {name}: cannot set {key} to \"{value}\""))?;
        }
        Ok(())
    })?
}
