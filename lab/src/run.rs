//! `emptcp-lab run`: a lab for the time of a command.

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use emptcp_lab::{Config, Lab, Report, eventually};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, getpgrp, tcsetpgrp};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The run was disturbed: repeat it (EX_TEMPFAIL of sysexits.h).
const DISTURBED: u8 = 75;
/// How long a command has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// Build a lab, run a command in front of it, remove it.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The lab file
    file: PathBuf,
    /// Begin of the namespaces' names [default: emptcp-lab-PID-]
    #[arg(long)]
    prefix: Option<String>,
    /// Do not fail when the relay was late, only warn
    #[arg(long)]
    allow_disturbed: bool,
    /// Write what the relay did to this file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Do not print what the relay did
    #[arg(long)]
    quiet: bool,
    /// The command, run outside the namespaces; without one the lab stands until interrupted
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Run {
    /// Returns the exit code: the command's, or 75 when the run was disturbed.
    pub(crate) fn execute(self) -> Result<u8> {
        // Before anything is built, so that an interruption at any time removes it again.
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?;
        let config = Config::load(&self.file)?;
        let lab = Lab::start(config, self.prefix.as_deref())?;
        let ended = self.wait(&lab, &mut signals);
        let report = lab.finish()?;
        let code = ended?;

        if let Some(file) = &self.report {
            let text = serde_json::to_string_pretty(&report)? + "\n";
            fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if !self.quiet {
            print(&report);
        }
        if report.disturbed() {
            let lateness = &report.lateness;
            eprintln!(
                "emptcp-lab: DISTURBED: {:.2} % of the frames were over 5 ms late (at most {} ms); \
                 measure again",
                lateness.late_ratio * 100.0,
                lateness.max_us / 1000
            );
            if !self.allow_disturbed {
                return Ok(DISTURBED);
            }
        }
        Ok(code)
    }

    /// Runs the command, or waits for a signal; returns the exit code.
    fn wait(&self, lab: &Lab, signals: &mut Signals) -> Result<u8> {
        let Some((program, arguments)) = self.command.split_first() else {
            for host in lab.config().hosts.keys() {
                println!("{host} {}", lab.netns(host));
            }
            println!("ready");
            for signal in signals.forever() {
                if signal != SIGCHLD {
                    break;
                }
            }
            return Ok(0);
        };

        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(lab.environment())
            .process_group(0);
        if let Ok(own) = std::env::current_exe() {
            command.env("EMPTCP_LAB", own);
        }
        // A signal that came while the lab was built.
        if let Some(signal) = signals.pending().find(|signal| *signal != SIGCHLD) {
            return Ok(128 + signal as u8);
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let group = Pid::from_raw(child.id() as i32);
        let _terminal = Terminal::lend(group);
        let mut child = Running { child, group };
        for signal in signals.forever() {
            if signal == SIGCHLD {
                if let Some(status) = child.child.try_wait()? {
                    return Ok(exit_code(status));
                }
            } else {
                child.end();
                return Ok(128 + signal as u8);
            }
        }
        Ok(0)
    }
}

/// The command, with all it started in its process group; ended when dropped.
struct Running {
    child: Child,
    group: Pid,
}

impl Running {
    fn end(&mut self) {
        // The group may be gone.
        let _ = killpg(self.group, Signal::SIGTERM);
        eventually(GRACE, || {
            // Collects the command itself, which otherwise counts as a member of the group.
            let _ = self.child.try_wait();
            killpg(self.group, None).is_err()
        });
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// The terminal, lent to the command so that a shell works in it.
struct Terminal {
    lent: bool,
}

impl Terminal {
    fn lend(group: Pid) -> Self {
        let input = std::io::stdin();
        let lent = input.is_terminal() && tcsetpgrp(&input, group).is_ok();
        Self { lent }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.lent {
            // Unless it is blocked, taking the terminal back would stop this process.
            let mut stop = SigSet::empty();
            stop.add(Signal::SIGTTOU);
            let _ = stop.thread_block();
            let _ = tcsetpgrp(std::io::stdin(), getpgrp());
            let _ = stop.thread_unblock();
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(125);
    u8::try_from(code).unwrap_or(125)
}

fn print(report: &Report) {
    for way in &report.directions {
        eprintln!(
            "emptcp-lab: {}: {} > {}: {} frames, {} bytes, {} lost, {} refused by the queue \
             (at most {} bytes waited)",
            way.link,
            way.from,
            way.to,
            way.frames,
            way.bytes,
            way.lost,
            way.queue_full,
            way.max_waiting_bytes
        );
    }
    let lateness = &report.lateness;
    eprintln!(
        "emptcp-lab: lateness of {} frames: median {} µs, 99 % {} µs, 99.9 % {} µs, max {} µs, \
         {} over 5 ms",
        lateness.packets,
        lateness.median_us,
        lateness.p99_us,
        lateness.p999_us,
        lateness.max_us,
        lateness.late
    );
}
