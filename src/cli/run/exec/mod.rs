//! Programs that decide (`docs/exec.md`): one that `emptcp run --exec` starts, and others at a
//! socket. They are told what happens to connections, and change tables; what they have put there
//! goes with them.

mod args;
mod guard;
mod notify;
mod obey;
mod peer;
mod program;
mod socket;
mod tell;

pub(super) use self::args::Args;
pub(in crate::cli) use self::guard::run as guard;

use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;

use self::obey::Obedience;
use self::obey::Tables;
use self::peer::Peer;
use self::program::Program;
use self::socket::Socket;
use self::tell::Teller;
use super::Service;
use crate::exec::Owner;

/// How soon what must wait for somebody else's `apply` is tried again.
const RETRY: Duration = Duration::from_millis(5);
/// Commands of one program that are done before others have their turn.
const AT_ONCE: usize = 1000;
/// Clients of the socket at a time.
const CLIENTS: usize = 16;

/// Serves the program and the clients of the socket.
pub(super) struct Exec {
    program: Option<Program>,
    socket: Option<Socket>,
    peers: Vec<Peer>,
    /// The number of the next one.
    next: Owner,
    tables: Tables,
    teller: Teller,
    /// Commands that a program may give in a second.
    rate: u32,
    interval: Duration,
    /// Somebody else changes the policy: tables are tried again then.
    retry: Option<Instant>,
}

impl Exec {
    /// `None`: no program is asked for.
    ///
    /// # Errors
    ///
    /// There is no such user or program; the socket cannot be made.
    pub(super) fn new(args: Args) -> Result<Option<Self>> {
        if args.exec.is_none() && args.socket.is_none() {
            return Ok(None);
        }
        args::hold_sigpipe()?;
        Ok(Some(Self {
            program: Program::new(&args)?,
            socket: Socket::new(&args)?,
            peers: Vec::new(),
            next: 1,
            tables: Tables::new(args.allow_inject)?,
            teller: Teller::new(args.interval),
            rate: args.command_rate,
            interval: args.interval,
            retry: None,
        }))
    }

    /// Starts the program where it does not run, and lets new clients in.
    fn take_up(&mut self, now: Instant) {
        if let Some(program) = &mut self.program
            && let Some((input, output)) = program.start(now)
        {
            let name = program.name().to_owned();
            self.enter(Peer::new(name, (input, output), self.rate, now));
            if let (Some(program), Some(peer)) = (&mut self.program, self.peers.last()) {
                program.runs_as(peer.owner);
            }
        }
        while let Some(socket) = &self.socket {
            let Some((name, input, output)) = socket.accept() else {
                break;
            };
            let mut peer = Peer::new(name, (input, output), self.rate, now);
            if self.peers.len() >= CLIENTS {
                peer.tell_error(&format!("{CLIENTS} clients are here already"));
                peer.flush();
                continue;
            }
            peer.goes_quietly();
            self.enter(peer);
        }
    }

    fn enter(&mut self, mut peer: Peer) {
        peer.owner = self.next;
        self.next += 1;
        peer.hello(self.interval);
        self.peers.push(peer);
    }

    /// Does what the programs ask for.
    fn obey(&mut self, now: Instant) {
        if self.retry.is_some_and(|retry| now < retry) {
            return;
        }
        self.retry = None;
        let mut done = self.tables.begin();
        for peer in &mut self.peers {
            for _ in 0..AT_ONCE {
                let Some((id, command)) = peer.next_command(now) else {
                    break;
                };
                match done.obey(peer, command) {
                    Obedience::Answer(answer) => peer.answer(&id, answer),
                    Obedience::Later(command) => {
                        peer.put_back(id, command);
                        self.retry = Some(now + RETRY);
                        break;
                    }
                }
            }
        }
        if !done.take_back() {
            self.retry = Some(now + RETRY);
        }
    }

    /// Lets those go that have ended, with all that they have put into tables.
    fn let_go(&mut self, now: Instant) {
        if let Some(program) = &mut self.program {
            let owner = program.owner();
            let peer = self.peers.iter_mut().find(|p| Some(p.owner) == owner);
            match peer {
                Some(peer) if peer.ended().is_some() => program.close(peer.is_struck(), now),
                Some(peer) => {
                    // Its children may hold its pipes.
                    if program.reap(now).is_some() {
                        peer.end("has ended".to_owned());
                    }
                }
                None => drop(program.reap(now)),
            }
        }
        for peer in self.peers.iter().filter(|peer| peer.ended().is_some()) {
            let why = peer.ended().unwrap_or_default();
            let taken = match self.tables.leave(peer.owner) {
                0 if peer.is_quiet() && !peer.is_struck() => continue,
                0 => String::new(),
                1 => "; 1 entry of tables is taken back".to_owned(),
                n => format!("; {n} entries of tables are taken back"),
            };
            eprintln!("emptcp: {}: {why}{taken}", peer.name);
        }
        self.peers.retain(|peer| peer.ended().is_none());
    }
}

impl Service for Exec {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let now = Instant::now();
        let mut fds: Vec<_> = self.peers.iter().filter_map(|p| p.reads(now)).collect();
        if let Some(socket) = &self.socket {
            fds.push(socket.as_fd());
        }
        fds.extend(self.program.as_ref().and_then(Program::stderr));
        fds
    }

    fn writes(&self) -> Vec<BorrowedFd<'_>> {
        self.peers.iter().filter_map(Peer::writes).collect()
    }

    fn due(&self) -> Option<Instant> {
        let peers = self.peers.iter().filter_map(|p| p.due(self.retry));
        let program = self.program.as_ref().and_then(Program::due);
        // While it waits for somebody else's apply, nothing of it is due before.
        let tables = self.retry.or(self.tables.due());
        let teller = self.teller.due(&self.peers);
        peers.chain(program).chain(tables).chain(teller).min()
    }

    fn serve(&mut self) {
        let now = Instant::now();
        if let Some(program) = &mut self.program {
            program.pass_on(now);
        }
        self.take_up(now);
        for peer in &mut self.peers {
            peer.read(now);
        }
        self.obey(now);
        self.teller.tell(&mut self.peers, now);
        for peer in &mut self.peers {
            peer.flush();
        }
        self.let_go(now);
        self.tables.expire(now);
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        // The guard takes back what all of them have put into tables, when its input ends.
        self.peers.clear();
        if let Some(program) = &mut self.program {
            program.stop();
        }
    }
}
