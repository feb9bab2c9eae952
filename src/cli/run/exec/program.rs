//! The program of `--exec`: started without privilege, and again when it has ended.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use nix::unistd::User;

use super::args::Args;
use crate::exec::Backoff;
use crate::exec::Bucket;
use crate::exec::Lines;
use crate::exec::Owner;
use crate::sys;

/// Variables that the program gets; others may hold what is not for it.
const VARIABLES: [&str; 6] = ["PATH", "LANG", "LC_ALL", "TZ", "TERM", "PYTHONPATH"];
/// Lines of its standard error that are passed on in a second, and at once.
const SAID: (u32, u32) = (100, 1000);
/// Bytes that its standard input holds, as every user may have them (pipe(7)).
const PIPE: i32 = 1 << 20;
/// How often a program that is to end is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long it has to end by itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// The program, whether it runs or not.
pub(super) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    user: User,
    backoff: Backoff,
    /// When it is started, where it does not run.
    due: Instant,
    running: Option<Running>,
}

struct Running {
    child: Child,
    owner: Owner,
    since: Instant,
    /// When it is ended, where it is to end.
    closes: Option<Instant>,
    /// When it is looked at then.
    looks: Instant,
    stderr: Option<File>,
    lines: Lines,
    said: Bucket,
    /// Lines of standard error that were left out.
    left_out: u64,
}

impl Program {
    /// `None`: there is none.
    ///
    /// # Errors
    ///
    /// There is no such user, or it is root.
    pub(super) fn new(args: &Args) -> Result<Option<Self>> {
        let Some(path) = &args.exec else {
            return Ok(None);
        };
        let user = User::from_name(&args.user).context("cannot look up users")?;
        let user = user.with_context(|| format!("--user: there is no user {:?}", args.user))?;
        if user.uid.is_root() {
            bail!("--user: a program that decides needs no privilege: name another user than root");
        }
        // It begins in another folder.
        let path = match path.components().count() {
            0 | 1 => path.clone(),
            _ => std::path::absolute(path)?,
        };
        Ok(Some(Self {
            path,
            args: args.args.clone(),
            user,
            backoff: Backoff::default(),
            due: Instant::now(),
            running: None,
        }))
    }

    pub(super) fn name(&self) -> &str {
        self.path.to_str().unwrap_or("program")
    }

    /// Who it is as an owner of entries, while it runs.
    pub(super) fn owner(&self) -> Option<Owner> {
        self.running.as_ref().map(|running| running.owner)
    }

    pub(super) fn runs_as(&mut self, owner: Owner) {
        if let Some(running) = &mut self.running {
            running.owner = owner;
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match &self.running {
            None => Some(self.due),
            Some(running) => running.closes.map(|closes| closes.min(running.looks)),
        }
    }

    /// Its standard error.
    pub(super) fn stderr(&self) -> Option<BorrowedFd<'_>> {
        let running = self.running.as_ref()?;
        running.stderr.as_ref().map(|file| file.as_fd())
    }

    /// Starts it where it is due: where to write to it, and to read from it.
    pub(super) fn start(&mut self, now: Instant) -> Option<(File, File)> {
        if self.running.is_some() || now < self.due {
            return None;
        }
        match self.spawn(now) {
            Ok((running, input, output)) => {
                self.running = Some(running);
                Some((input, output))
            }
            Err(error) => {
                let pause = self.backoff.next(Duration::ZERO);
                self.due = now + pause;
                eprintln!("emptcp: {error:#}: tried again in {pause:?}");
                None
            }
        }
    }

    fn spawn(&self, now: Instant) -> Result<(Running, File, File)> {
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .env_clear()
            .envs(
                VARIABLES
                    .iter()
                    .filter_map(|v| Some((*v, std::env::var_os(v)?))),
            )
            .env("USER", &self.user.name)
            .env("HOME", &self.user.dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for this process.
            .process_group(0);
        // A process that is neither root nor the user cannot become it.
        if nix::unistd::geteuid() != self.user.uid {
            command.uid(self.user.uid.into()).gid(self.user.gid.into());
        }
        sys::without_privileges(&mut command);
        let mut child = command.spawn().with_context(|| {
            format!(
                "cannot start {} as {} (may that user read and run it?)",
                self.path.display(),
                self.user.name
            )
        })?;
        let pipes = (child.stdin.take())
            .zip(child.stdout.take())
            .zip(child.stderr.take());
        let ((input, output), stderr) = pipes.context("the program has no pipes")?;
        // A round of metrics at once, instead of so much as the program reads at a time. There may be
        // too many pipes of that size.
        let _ = fcntl(&input, FcntlArg::F_SETPIPE_SZ(PIPE));
        let running = Running {
            child,
            owner: 0,
            since: now,
            closes: None,
            looks: now,
            stderr: Some(unblocked(stderr.into())?),
            lines: Lines::default(),
            said: Bucket::new(SAID.0, SAID.1, now),
            left_out: 0,
        };
        Ok((running, unblocked(input.into())?, unblocked(output.into())?))
    }

    /// Passes on what it has written to standard error.
    pub(super) fn pass_on(&mut self, now: Instant) {
        if let Some(running) = &mut self.running {
            running.pass_on(&self.path.display().to_string(), now);
        }
    }

    /// Nobody listens to it any more: it is asked to end, and ended where it does not. `at_once`:
    /// without patience.
    pub(super) fn close(&mut self, at_once: bool, now: Instant) {
        if let Some(running) = &mut self.running
            && running.closes.is_none()
        {
            running.signal(Signal::SIGTERM);
            running.closes = Some(if at_once { now } else { now + PATIENCE });
        }
    }

    /// Once it has ended: says so, and returns who it was as an owner.
    pub(super) fn reap(&mut self, now: Instant) -> Option<Owner> {
        let running = self.running.as_mut()?;
        running.looks = now + LOOK;
        let mut status = running.child.try_wait().ok().flatten();
        if status.is_none() && running.closes.is_some_and(|closes| closes <= now) {
            running.signal(Signal::SIGKILL);
            status = running.child.wait().ok();
        }
        let status = status?;
        // Its children too.
        running.signal(Signal::SIGKILL);
        let name = self.path.display().to_string();
        running.pass_on(&name, now);
        let owner = running.owner;
        let pause = self
            .backoff
            .next(now.saturating_duration_since(running.since));
        self.running = None;
        self.due = now + pause;
        eprintln!("emptcp: {name}: ended ({status}), starts again in {pause:?}");
        Some(owner)
    }

    /// Ends it for good. Its pipes are closed.
    pub(super) fn stop(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        let end = Instant::now() + PATIENCE;
        running.signal(Signal::SIGTERM);
        while Instant::now() < end && matches!(running.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK);
        }
        running.signal(Signal::SIGKILL);
        let _ = running.child.wait();
        self.running = None;
    }
}

impl Running {
    /// To it and its children; they may have ended.
    fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.child.id() as i32), signal);
    }

    fn pass_on(&mut self, name: &str, now: Instant) {
        let mut piece = [0; 4096];
        // A program that writes without end has its turn again.
        for _ in 0..16 {
            let Some(file) = &mut self.stderr else {
                break;
            };
            match file.read(&mut piece) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => self.stderr = None,
                Ok(count) => self.lines.push(&piece[..count]),
            }
            while let Some(line) = self.lines.next() {
                if !self.said.take(now) {
                    self.left_out += 1;
                    continue;
                }
                if self.left_out > 0 {
                    eprintln!("emptcp: {name}: {} lines left out", self.left_out);
                    self.left_out = 0;
                }
                let line = line.unwrap_or_else(|()| b"(a long line)".to_vec());
                eprintln!("emptcp: {name}: {}", String::from_utf8_lossy(&line));
            }
        }
    }
}

/// A descriptor that gives an error where it would have to wait.
pub(super) fn unblocked(fd: OwnedFd) -> Result<File> {
    let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(File::from(fd))
}
