//! `emptcp run`: what a policy needs a process for. When it dies, traffic and policy go on.
//!
//! It is one loop over services: each says what it waits for and by when, and is called when that
//! is there. To add one: a file beside this, and a line in [`run`].

mod exec;
mod mend;
mod nudge;
mod rejoin;

use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

use self::exec::Exec;
use self::mend::Mend;
use self::nudge::Nudge;
use self::rejoin::Rejoin;
use super::Context;
use super::Done;
use super::reader::end_signals;

/// Something that `emptcp run` does beside others. None may block, nor end the others: what is
/// wrong is said on stderr.
trait Service {
    /// What it waits for: it is called when one of these can be read.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;

    /// What it waits for to write to: it is also called when one of these takes something.
    fn writes(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// When it is to be called though nothing can be read; `None`: never.
    fn due(&self) -> Option<Instant>;

    /// Called when one of its descriptors can be read or written, or it is due.
    fn serve(&mut self);
}

/// What is wrong with a service, said once as long as it lasts.
#[derive(Debug, Default)]
struct Trouble(Option<String>);

impl Trouble {
    /// Says it on stderr, if that was not the last that was said.
    fn tell(&mut self, error: &anyhow::Error) {
        let error = format!("{error:#}");
        if self.0.as_ref() != Some(&error) {
            eprintln!("emptcp: {error}");
        }
        self.0 = Some(error);
    }

    /// It is said again when it comes again.
    fn over(&mut self) {
        self.0 = None;
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    exec: exec::Args,
}

impl Args {
    /// Whether this process only takes back what another one leaves: it needs no modules.
    pub(super) fn is_guard(&self) -> bool {
        self.exec.guard
    }
}

pub(super) use self::exec::guard;

pub(super) fn run(context: Context, args: Args) -> Result<Done> {
    let context = Context {
        quiet: true,
        ..context
    };
    let signals = end_signals()?;
    let mut services: Vec<Box<dyn Service>> = vec![
        Box::new(Mend::new(context)?),
        Box::new(Nudge::new()?),
        Box::new(Rejoin::new()),
    ];
    if let Some(exec) = Exec::new(args.exec)? {
        services.push(Box::new(exec));
    }
    eprintln!("emptcp: running, until a signal (Ctrl-C) ends it");
    loop {
        let called = wait(&signals.as_fd(), &services)?;
        if signals.read_signal()?.is_some() {
            return Ok(Done::Yes);
        }
        for (service, called) in services.iter_mut().zip(called) {
            if called {
                service.serve();
            }
        }
    }
}

/// Waits until a signal comes or a service is to be called; which ones are.
fn wait(signals: &BorrowedFd<'_>, services: &[Box<dyn Service>]) -> Result<Vec<bool>> {
    let mut fds = vec![PollFd::new(*signals, PollFlags::POLLIN)];
    let mut owners = Vec::new();
    for (owner, service) in services.iter().enumerate() {
        for fd in service.fds() {
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
            owners.push(owner);
        }
        for fd in service.writes() {
            fds.push(PollFd::new(fd, PollFlags::POLLOUT));
            owners.push(owner);
        }
    }
    let first = services.iter().filter_map(|service| service.due()).min();
    match poll(&mut fds, timeout(first)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error).context("cannot wait"),
    }
    let now = Instant::now();
    let mut called: Vec<bool> = services
        .iter()
        .map(|service| service.due().is_some_and(|due| due <= now))
        .collect();
    for (fd, owner) in fds.iter().skip(1).zip(owners) {
        called[owner] |= fd.any().unwrap_or(true);
    }
    Ok(called)
}

/// Until then, rounded up: what is called too early has nothing to do.
fn timeout(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else {
        return PollTimeout::NONE;
    };
    let wait = until.saturating_duration_since(Instant::now());
    let wait = wait.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
}
