//! Further subflows whose SYN was held until the client gave up, though the policy wants them now: the
//! path manager of the kernel is asked for them again, where the socket is here.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;

use super::Service;
use super::Trouble;
use crate::abi::HeldState;
use crate::datapath::Again;
use crate::datapath::Endpoint;
use crate::datapath::Expired;
use crate::datapath::Held;
use crate::datapath::Local;
use crate::datapath::PathManager;
use crate::datapath::mptcp_sockets;
use crate::track::Socket;

/// How often is looked for those that expired.
const LOOK: Duration = Duration::from_millis(100);
/// The same, where nothing of the policy in force holds SYNs.
const IDLE: Duration = Duration::from_secs(1);
/// How often is looked whether an address is free that others used.
const AGAIN: Duration = Duration::from_secs(10);

/// Asks for them, each once.
pub(super) struct Rejoin {
    due: Instant,
    /// When is looked at addresses that others used.
    again: Instant,
    /// Endpoints that were removed and could not be added again: nobody else would.
    gone: Vec<Endpoint>,
    trouble: Trouble,
}

impl Rejoin {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            due: now,
            again: now,
            gone: Vec::new(),
            trouble: Trouble::default(),
        }
    }

    fn look(&mut self) -> Result<Duration> {
        self.restore()?;
        let Some(held) = Held::in_force()? else {
            return Ok(IDLE);
        };
        let again = Instant::now() >= self.again;
        if again {
            self.again = Instant::now() + AGAIN;
        }
        let expired = held.expired(again)?;
        if expired.is_empty() {
            return Ok(LOOK);
        }
        let sockets = mptcp_sockets()?;
        let mut added = Vec::new();
        for join in &expired {
            if let Err(error) = self.ask(&held, join, &sockets, &mut added) {
                say(join, &format!("cannot be asked for again: {error:#}"));
                held.note(join, HeldState::EMPTCP_HELD_REFUSED)?;
            }
        }
        Ok(LOOK)
    }

    /// Adds endpoints that are missing because of this process.
    fn restore(&mut self) -> Result<()> {
        if self.gone.is_empty() {
            return Ok(());
        }
        let manager = PathManager::open()?;
        while let Some(endpoint) = self.gone.last() {
            match manager.add(endpoint) {
                Ok(()) => say_endpoint(endpoint, "is there again"),
                // Somebody else was faster.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::EBUSY)) => {}
                Err(error) => {
                    let what = format!("the endpoint {} cannot be added", endpoint.address);
                    return Err(error).context(what);
                }
            }
            self.gone.pop();
        }
        Ok(())
    }

    /// Asks for one. `added`: addresses of endpoints that were added again at this look, which serves
    /// all connections.
    fn ask(
        &mut self,
        held: &Held,
        join: &Expired,
        sockets: &[Socket],
        added: &mut Vec<IpAddr>,
    ) -> Result<()> {
        let is_its = |s: &&Socket| join.token.is_some() && s.token_local == join.token;
        let Some(token) = join.token.filter(|_| sockets.iter().any(|s| is_its(&s))) else {
            return held.note(join, HeldState::EMPTCP_HELD_NO_SOCKET);
        };
        let address = join.from.ip();
        let is_there = |s: &Socket| s.local.ip() == address && s.remote == join.to;
        if sockets.iter().filter(is_its).any(is_there) {
            // By a retry that no chain held.
            return held.note(join, HeldState::EMPTCP_HELD_RELEASED);
        }
        let local = Local {
            address,
            id: join.addr_id,
            backup: join.backup,
            interface: join.interface()?,
        };
        // Its SYN comes before the answer, and is to be known as one that was asked for.
        let asks = || held.note(join, HeldState::EMPTCP_HELD_ASKED);
        let manager = PathManager::open()?;
        if !join.was_in_use {
            asks()?;
            match manager.create_subflow(token, &local, join.to) {
                Ok(()) => {
                    say(join, "asked for again");
                    return Ok(());
                }
                // The kernel manages its paths itself, or those of all connections.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if added.contains(&address) {
            return asks();
        }
        let endpoints = manager.endpoints()?;
        let mut endpoints = endpoints.iter().filter(|e| e.only_joins());
        let Some(endpoint) = endpoints.find(|e| e.address == address) else {
            say(join, "not asked for again: no endpoint of type subflow");
            return held.note(join, HeldState::EMPTCP_HELD_NO_ENDPOINT);
        };
        if sockets.iter().any(|s| s.local.ip() == address) {
            if !join.was_in_use {
                let why = "not asked for again: subflows that use the address would end";
                say(join, why);
            }
            return held.note(join, HeldState::EMPTCP_HELD_IN_USE);
        }
        asks()?;
        added.push(address);
        match manager.add_again(endpoint) {
            Ok(Again::Done) => {
                say(join, "asked for again");
                say_endpoint(endpoint, "was removed and added again");
                Ok(())
            }
            Ok(Again::Kept(error)) => Err(error.into()),
            Ok(Again::Gone(error)) => {
                let what = format!("WAS REMOVED AND CANNOT BE ADDED AGAIN: {error}; trying again");
                say_endpoint(endpoint, &what);
                self.gone.push(endpoint.clone());
                Ok(())
            }
            // It may be there or not.
            Err(error) => {
                self.gone.push(endpoint.clone());
                Err(error.into())
            }
        }
    }
}

fn say(join: &Expired, what: &str) {
    eprintln!(
        "emptcp: subflow {}-{}, held until its client gave up: {what}",
        join.from, join.to
    );
}

fn say_endpoint(endpoint: &Endpoint, what: &str) {
    eprintln!(
        "emptcp: endpoint {} id {} {what}",
        endpoint.address, endpoint.id
    );
}

impl Service for Rejoin {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn due(&self) -> Option<Instant> {
        Some(self.due)
    }

    fn serve(&mut self) {
        let pause = match self.look() {
            Ok(pause) => {
                self.trouble.over();
                pause
            }
            Err(error) => {
                self.trouble.tell(&error);
                IDLE
            }
        };
        self.due = Instant::now() + pause;
    }
}
