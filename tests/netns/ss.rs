// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! What `ss` says of the subflows of a network namespace.

use std::net::IpAddr;
use std::net::SocketAddr;

use serde_json::Value;

use super::rig::Netns;

/// A socket, as `ss` tells.
#[derive(Debug, PartialEq)]
pub(super) struct Socket {
    pub(super) local: String,
    pub(super) remote: String,
    text: String,
}

impl Socket {
    /// What stands behind `name:`.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut words = self.text.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))
    }

    /// A number, 0 where `ss` leaves it out.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.field(name).map_or(0, |n| n.parse().unwrap())
    }

    /// Whether it is one of Multipath TCP.
    pub(super) fn is_subflow(&self) -> bool {
        self.text.contains("tcp-ulp-mptcp")
    }

    /// Token and address id of this end, or of the other one; as views have them.
    pub(super) fn token(&self, remote: bool) -> (Option<String>, u64) {
        let (first, second) = self.field("token").unwrap().split_once('/').unwrap();
        let text = if remote { first } else { second };
        let (token, id) = text.trim_end_matches(')').split_once("(id:").unwrap();
        let token = u32::from_str_radix(token, 16).unwrap();
        let token = (token != 0).then(|| format!("0x{token:08x}"));
        (token, id.parse().unwrap())
    }
}

/// The subflows of a network namespace.
pub(super) fn sockets(netns: &Netns) -> Vec<Socket> {
    let mut all = all_sockets(netns);
    all.retain(Socket::is_subflow);
    all
}

/// Whether the kernel takes the subflow of a filter of `ss` for backup, since the other end asked:
/// MPTCP_SUBFLOW_FLAG_BKUP_REM, as mptcp_info() of iproute2 shows it.
#[track_caller]
pub(super) fn is_backup(netns: &Netns, filter: &str) -> bool {
    let all = netns.sh(&format!("ss -Htino state established {filter}"));
    let flags = all.split("flags:").nth(1).unwrap_or_default();
    let flags = flags.split_whitespace().next().unwrap_or_default();
    assert!(!flags.is_empty(), "{filter}: {all}");
    flags.contains('B')
}

/// All TCP sockets of a network namespace that are connected.
pub(super) fn all_sockets(netns: &Netns) -> Vec<Socket> {
    let out = netns.sh("ss -HtniO state established");
    out.lines()
        .map(|line| {
            let mut words = line.split_whitespace().skip(2);
            let mut place = || {
                let text = words.next().unwrap().replace("[::ffff:", "[");
                let (address, port) = text.rsplit_once(':').unwrap();
                let address = address.trim_start_matches('[').trim_end_matches(']');
                let address: IpAddr = address.parse().unwrap();
                SocketAddr::new(address, port.parse().unwrap()).to_string()
            };
            Socket {
                local: place(),
                remote: place(),
                text: line.to_owned(),
            }
        })
        .collect()
}

/// An end of a subflow as views have it, written as a [`Socket`] has it.
pub(super) fn place(end: &Value) -> String {
    let address: IpAddr = end["address"].as_str().unwrap().parse().unwrap();
    SocketAddr::new(address, end["port"].as_u64().unwrap() as u16).to_string()
}
