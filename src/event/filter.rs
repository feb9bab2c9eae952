//! Which events are wanted.

use std::net::IpAddr;
use std::net::SocketAddr;

use super::Detail;
use super::Event;
use super::Notice;
use super::Type;
use crate::policy::glob_matches;
use crate::policy::quantity::Prefix;

/// Events that are wanted: all that are so; what is empty asks for nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Of one of these types.
    pub(crate) types: Vec<Type>,
    /// Of a connection with one of these tokens, of client or server.
    pub(crate) tokens: Vec<u32>,
    /// With an address in one of these: of the subflow, or announced.
    pub(crate) addresses: Vec<Prefix>,
    /// With one of these ports at either end.
    pub(crate) ports: Vec<u16>,
    /// At an interface of one of these names or patterns.
    pub(crate) interfaces: Vec<String>,
}

impl Filter {
    /// Whether it takes an event, but for the interface, whose name an event does not have.
    pub(crate) fn takes(&self, event: &Event) -> bool {
        let tokens = [event.token, event.client_token];
        let announced = match event.detail {
            Detail::AddAddr { addr, .. } => Some(addr),
            _ => None,
        };
        is_any(&self.types, |wanted| *wanted == event.r#type())
            && self.is_of(tokens, [event.src, event.dst], announced)
    }

    /// Whether connection and subflow, and an address besides, are wanted.
    fn is_of(
        &self,
        tokens: [Option<u32>; 2],
        ends: [SocketAddr; 2],
        other: Option<IpAddr>,
    ) -> bool {
        let addresses = ends.map(|end| end.ip()).into_iter().chain(other);
        let addresses: Vec<_> = addresses.collect();
        is_any(&self.tokens, |wanted| tokens.contains(&Some(*wanted)))
            && is_any(&self.addresses, |wanted| {
                addresses.iter().any(|a| holds(wanted, *a))
            })
            && is_any(&self.ports, |wanted| {
                ends.iter().any(|end| end.port() == *wanted)
            })
    }

    /// Whether it takes what happens at the interface of this name.
    pub(crate) fn is_at(&self, interface: &str) -> bool {
        is_any(&self.interfaces, |wanted| glob_matches(wanted, interface))
    }

    /// Whether it takes what is no event of a packet: most have no subflow and no connection.
    pub(crate) fn takes_notice(&self, notice: &Notice) -> bool {
        let is_of = match notice {
            Notice::Held(join) => self.is_of([Some(join.token), None], [join.from, join.to], None),
            _ => self.tokens.is_empty() && self.addresses.is_empty() && self.ports.is_empty(),
        };
        let is_there = match notice.interface() {
            Some(interface) => self.is_at(interface),
            None => self.interfaces.is_empty(),
        };
        is_of && is_there && is_any(&self.types, |wanted| *wanted == notice.r#type())
    }
}

fn is_any<T>(wanted: &[T], so: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(so)
}

/// Whether an address lies in a prefix.
pub(super) fn holds(prefix: &Prefix, addr: IpAddr) -> bool {
    if prefix.is_ipv4() != addr.is_ipv4() {
        return false;
    }
    let bits = match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    bits & prefix.mask().to_bits() == prefix.addr.to_bits()
}

#[cfg(test)]
mod tests {
    use super::super::tests::add_addr;
    use super::*;

    fn wants(filter: Filter) -> bool {
        filter.takes(&add_addr())
    }

    fn within(prefix: &str) -> bool {
        let at = crate::policy::Place::root("");
        let json = crate::policy::Json::from_value(&prefix.into(), &at);
        wants(Filter {
            addresses: vec![crate::policy::quantity::prefix(&json).unwrap()],
            ..Filter::default()
        })
    }

    #[test]
    fn all_that_is_asked_for() {
        assert!(wants(Filter::default()));
        let types = |types: &[Type]| Filter {
            types: types.to_vec(),
            ..Filter::default()
        };
        assert!(wants(types(&[Type::Prio, Type::AddAddr])));
        assert!(!wants(types(&[Type::Prio])));
        for (token, so) in [(1, true), (2, true), (3, false), (0, false)] {
            let filter = Filter {
                tokens: vec![token],
                ..Filter::default()
            };
            assert_eq!(wants(filter), so, "{token}");
        }
        for (port, so) in [(5001, true), (40000, true), (7, false)] {
            let filter = Filter {
                ports: vec![port],
                ..Filter::default()
            };
            assert_eq!(wants(filter), so, "{port}");
        }
        let both = Filter {
            types: vec![Type::AddAddr],
            ports: vec![7],
            ..Filter::default()
        };
        assert!(!wants(both));
    }

    #[test]
    fn interfaces_and_notices() {
        let at = |names: &[&str]| Filter {
            interfaces: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Filter::default()
        };
        let link = |name: &str| {
            Notice::Link(super::super::LinkChange {
                interface: name.to_owned(),
                ifindex: 2,
                state: super::super::LinkState::Up,
            })
        };
        let reason = Notice::Reason {
            hook: crate::module::Hook::Xdp,
            reason: "truncated".to_owned(),
            packets: 1,
            total: 1,
        };
        assert!(at(&["p0", "wwan*"]).is_at("wwan1") && !at(&["wwan*"]).is_at("p0"));
        assert!(at(&[]).takes_notice(&link("p0")) && at(&[]).takes_notice(&reason));
        assert!(at(&["p*"]).takes_notice(&link("p0")) && !at(&["p1"]).takes_notice(&link("p0")));
        assert!(!at(&["p*"]).takes_notice(&reason));
        let links = Filter {
            types: vec![Type::Link],
            ..Filter::default()
        };
        assert!(links.takes_notice(&link("p0")) && !links.takes_notice(&reason));
        let of_port = Filter {
            ports: vec![80],
            ..Filter::default()
        };
        assert!(!of_port.takes_notice(&link("p0")));
        // This one has a subflow.
        let held = Notice::Held(super::super::HeldChange {
            token: 7,
            from: SocketAddr::from(([10, 0, 1, 2], 40000)),
            to: SocketAddr::from(([10, 0, 0, 1], 80)),
            state: "asked",
        });
        assert!(of_port.takes_notice(&held) && !links.takes_notice(&held));
        assert!(at(&[]).takes_notice(&held) && !at(&["p*"]).takes_notice(&held));
        let of_token = |token| Filter {
            tokens: vec![token],
            ..Filter::default()
        };
        assert!(of_token(7).takes_notice(&held) && !of_token(8).takes_notice(&held));
    }

    #[test]
    fn addresses() {
        // Source, destination, what is announced, and others.
        for prefix in ["10.0.0.1", "10.0.0.2/32", "0.0.0.0/0", "fd00::/8", "::/0"] {
            assert!(within(prefix), "{prefix}");
        }
        for prefix in ["10.0.0.3", "10.1.0.0/16", "fc00::/8"] {
            assert!(!within(prefix), "{prefix}");
        }
    }
}
