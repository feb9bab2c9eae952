//! What is told beside the events of packets: changes of links, packets that could not be treated,
//! and further subflows that were held for too long.

use std::net::SocketAddr;

use serde_json::Value;
use serde_json::json;

use super::Type;
use super::text::seconds;
use crate::interface::Interface;
use crate::interface::Interfaces;
use crate::module::Hook;

/// What has become of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// It came, and is up or not.
    Appeared(bool),
    /// It went.
    Gone,
    /// It is up, with a carrier where it can have one.
    Up,
    /// It is not, or has no carrier.
    Down,
}

impl LinkState {
    /// As in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Appeared(_) => "appeared",
            Self::Gone => "gone",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    fn is_up(self) -> bool {
        matches!(self, Self::Appeared(true) | Self::Up)
    }
}

/// A change of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkChange {
    pub(crate) interface: String,
    pub(crate) ifindex: u32,
    pub(crate) state: LinkState,
}

/// What became of the SYN of a further subflow that was held until its client gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldChange {
    /// Of the server.
    pub(crate) token: u32,
    /// As its SYN had them.
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// Of `enum emptcp_held_state`: `expired`, `asked` …
    pub(crate) state: &'static str,
}

/// Something that is no event of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// An interface changed.
    Link(LinkChange),
    /// Packets could not be treated.
    Reason {
        hook: Hook,
        /// Of `enum emptcp_reason`.
        reason: String,
        /// Since it was last told, and in all.
        packets: u64,
        total: u64,
    },
    /// A client had given up.
    Held(HeldChange),
}

impl Notice {
    pub(crate) fn r#type(&self) -> Type {
        match self {
            Self::Link(_) => Type::Link,
            Self::Reason { .. } => Type::Reason,
            Self::Held(_) => Type::HeldJoin,
        }
    }

    /// The interface that it is about.
    pub(crate) fn interface(&self) -> Option<&str> {
        match self {
            Self::Link(change) => Some(&change.interface),
            Self::Reason { .. } | Self::Held(_) => None,
        }
    }

    /// A line for people. `time`: nanoseconds since 1970.
    pub(crate) fn line(&self, time: u64) -> String {
        let said = match self {
            Self::Link(change) => {
                let down = match change.state {
                    LinkState::Appeared(false) => ", down",
                    _ => "",
                };
                format!("{}{down} dev {}", change.state.name(), change.interface)
            }
            Self::Reason {
                hook,
                reason,
                packets,
                total,
            } => format!("{reason}: {packets} packets not treated at {hook}, {total} in all"),
            Self::Held(change) => format!(
                "{} token {:08x} {} > {}",
                change.state, change.token, change.from, change.to
            ),
        };
        format!("{} {} {said}", seconds(time), self.r#type().name())
    }

    /// The same as JSON.
    pub(crate) fn object(&self, time: u64) -> Value {
        let r#type = self.r#type().name();
        match self {
            Self::Link(change) => json!({
                "time": time,
                "type": r#type,
                "interface": change.interface,
                "ifindex": change.ifindex,
                "event": change.state.name(),
                "up": change.state.is_up(),
            }),
            Self::Reason {
                hook,
                reason,
                packets,
                total,
            } => json!({
                "time": time,
                "type": r#type,
                "hook": hook.name(),
                "reason": reason,
                "packets": packets,
                "total": total,
            }),
            Self::Held(change) => json!({
                "time": time,
                "type": r#type,
                "event": change.state,
                "token": format!("0x{:08x}", change.token),
                "src": change.from.ip(),
                "sport": change.from.port(),
                "dst": change.to.ip(),
                "dport": change.to.port(),
            }),
        }
    }
}

/// What has changed from one look at the interfaces to the next: first those that went. Policies go
/// by names, so one that has another name now went and came.
pub(crate) fn link_changes(before: &Interfaces, after: &Interfaces) -> Vec<LinkChange> {
    let same = |a: &Interface, b: &Interface| a.index == b.index && a.name == b.name;
    let change = |of: &Interface, state| LinkChange {
        interface: of.name.clone(),
        ifindex: of.index,
        state,
    };
    let gone = before
        .0
        .iter()
        .filter(|old| !after.0.iter().any(|new| same(old, new)));
    let mut changes: Vec<_> = gone.map(|old| change(old, LinkState::Gone)).collect();
    for new in &after.0 {
        let state = match before.0.iter().find(|old| same(old, new)) {
            None => LinkState::Appeared(new.up),
            Some(old) if old.up == new.up => continue,
            Some(_) if new.up => LinkState::Up,
            Some(_) => LinkState::Down,
        };
        changes.push(change(new, state));
    }
    changes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn link(index: u32, name: &str, up: bool) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            altnames: Vec::new(),
            mtu: 1500,
            up,
            kind: None,
            raw_ip: false,
            xdp_program: None,
        }
    }

    fn said(before: &[Interface], after: &[Interface]) -> Vec<String> {
        let [before, after] = [before, after].map(|links| Interfaces(links.to_vec()));
        let changes = link_changes(&before, &after).into_iter();
        changes.map(|c| Notice::Link(c).line(0)).collect()
    }

    #[test]
    fn links() {
        let (up, down) = (link(2, "eth0", true), link(2, "eth0", false));
        let wwan = link(3, "wwan0", false);
        let at = |said: &str| format!("0.000000000 link {said}");
        let one = std::slice::from_ref;
        assert!(said(one(&up), one(&up)).is_empty());
        assert_eq!(said(one(&up), one(&down)), [at("down dev eth0")]);
        assert_eq!(said(one(&down), one(&up)), [at("up dev eth0")]);
        assert_eq!(said(&[], one(&up)), [at("appeared dev eth0")]);
        assert_eq!(said(one(&up), &[]), [at("gone dev eth0")]);
        assert_eq!(
            said(one(&up), &[down, wwan]),
            [at("down dev eth0"), at("appeared, down dev wwan0")]
        );
        // Another name is another interface, for policies; so is another index.
        assert_eq!(
            said(one(&up), &[link(2, "lan0", true)]),
            [at("gone dev eth0"), at("appeared dev lan0")]
        );
        assert_eq!(
            said(one(&up), &[link(7, "eth0", true)]),
            [at("gone dev eth0"), at("appeared dev eth0")]
        );
    }

    #[test]
    fn as_json() {
        let change = LinkChange {
            interface: "wwan0".to_owned(),
            ifindex: 3,
            state: LinkState::Appeared(false),
        };
        assert_eq!(
            Notice::Link(change).object(7),
            json!({ "time": 7, "type": "link", "interface": "wwan0", "ifindex": 3,
                "event": "appeared", "up": false })
        );
        let reason = Notice::Reason {
            hook: Hook::Xdp,
            reason: "no_room".to_owned(),
            packets: 2,
            total: 9,
        };
        assert_eq!(
            reason.object(7),
            json!({ "time": 7, "type": "reason", "hook": "xdp", "reason": "no_room",
                "packets": 2, "total": 9 })
        );
        assert_eq!(
            reason.line(7),
            "0.000000007 reason no_room: 2 packets not treated at xdp, 9 in all"
        );
        let held = Notice::Held(HeldChange {
            token: 0x1a2b,
            from: "10.0.1.2:40000".parse().unwrap(),
            to: "10.0.0.1:80".parse().unwrap(),
            state: "in_use",
        });
        assert_eq!(
            held.object(7),
            json!({ "time": 7, "type": "held_join", "event": "in_use", "token": "0x00001a2b",
                "src": "10.0.1.2", "sport": 40000, "dst": "10.0.0.1", "dport": 80 })
        );
        assert_eq!(
            held.line(7),
            "0.000000007 held_join in_use token 00001a2b 10.0.1.2:40000 > 10.0.0.1:80"
        );
    }
}
