//! The lab file: hosts, links and bottlenecks, in JSON. Pure; nothing here touches the system.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::units::{QueueLimit, Rate, Ratio, Time};

/// Bytes of an Ethernet header, counted in every frame.
pub const ETHERNET_HEADER: u32 = 14;
/// The largest MTU of a link, in bytes.
pub const MAX_MTU: u32 = 9000;

/// A whole lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of this format; 1.
    pub version: u32,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Network namespaces by name.
    #[serde(deserialize_with = "unique_keys")]
    pub hosts: BTreeMap<String, Host>,
    /// Queues with a rate that several links share, by name.
    #[serde(default, deserialize_with = "unique_keys")]
    pub bottlenecks: BTreeMap<String, Shared>,
    /// Point-to-point links between hosts.
    #[serde(default)]
    pub links: Vec<Link>,
}

/// One network namespace: an end host or a router.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Forwards IPv4 and IPv6 packets.
    pub forward: bool,
    /// Values by name, with dots or slashes (`net.ipv4.tcp_rmem`).
    #[serde(deserialize_with = "unique_keys")]
    pub sysctls: BTreeMap<String, String>,
    /// Routes beside those to the links' own networks.
    pub routes: Vec<Route>,
    /// Rules that choose a routing table by source address.
    pub rules: Vec<Rule>,
    /// The in-kernel path manager's limits and endpoints.
    pub mptcp: Mptcp,
}

/// A route of a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination network.
    pub to: IpNet,
    /// Next hop; without it the destination is reached directly.
    #[serde(default)]
    pub via: Option<IpAddr>,
    /// Interface; needed without `via`.
    #[serde(default)]
    pub dev: Option<String>,
    /// Routing table; the main one when absent.
    #[serde(default)]
    pub table: Option<u32>,
}

/// Packets with this source address use this routing table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Source network.
    pub from: IpNet,
    /// Routing table.
    pub table: u32,
}

/// Settings of the in-kernel MPTCP path manager.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mptcp {
    /// Limits; the kernel's own where absent.
    pub limits: Option<MptcpLimits>,
    /// Endpoints, in order.
    pub endpoints: Vec<Endpoint>,
}

/// Limits of the in-kernel path manager, each 0 to 8.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MptcpLimits {
    /// Additional subflows per connection.
    pub subflows: u32,
    /// ADD_ADDRs accepted per connection.
    #[serde(default)]
    pub add_addr_accepted: u32,
}

/// An MPTCP endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Local address.
    pub address: IpAddr,
    /// Port, for `signal` endpoints only.
    #[serde(default)]
    pub port: Option<u16>,
    /// Address id; chosen by the kernel when absent.
    #[serde(default)]
    pub id: Option<u8>,
    /// Interface.
    #[serde(default)]
    pub dev: Option<String>,
    /// What the endpoint is for.
    pub flags: BTreeSet<EndpointFlag>,
}

/// A flag of an MPTCP endpoint, as `ip mptcp` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointFlag {
    /// Announced to the peer by ADD_ADDR.
    Signal,
    /// Used as the source of additional subflows.
    Subflow,
    /// Subflows from here have backup priority.
    Backup,
    /// Subflows to every known address of the peer.
    Fullmesh,
}

impl EndpointFlag {
    /// The word of `ip mptcp endpoint add`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Subflow => "subflow",
            Self::Backup => "backup",
            Self::Fullmesh => "fullmesh",
        }
    }
}

/// A rate and a queue that several links share.
///
/// All directions `a` to `b` of the links that name it wait in one queue, all directions `b` to
/// `a` in another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Rate of Ethernet frames.
    pub rate: Rate,
    /// Frames that may wait; 50 ms of the rate when absent.
    #[serde(default)]
    pub queue: Option<QueueLimit>,
}

/// What a link is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// Two TAP devices and the relay between them.
    #[default]
    Emulated,
    /// A veth pair, as fast as the kernel can, with its offloads.
    Veth,
}

/// A link between two hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Unique name.
    pub name: String,
    /// Emulated when absent.
    #[serde(default)]
    pub kind: LinkKind,
    /// One end.
    pub a: End,
    /// The other end.
    pub b: End,
    /// Largest IP packet, in bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// veth only: transmit checksum offload of both ends, on by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<bool>,
    /// Rate of Ethernet frames (without preamble, check sequence and gap); unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Frames that may wait for the rate; 50 ms of the rate (at least 16 KiB) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueLimit>,
    /// Name of a shared bottleneck, instead of `rate` and `queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bottleneck: Option<String>,
    /// One-way delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Time>,
    /// Additional delay, uniform from zero to this, without reordering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Time>,
    /// Share of unicast IP packets that are lost after the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Ratio>,
    /// Seed of loss and jitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Replaces the values above from `a` to `b`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a_to_b: Option<Direction>,
    /// Replaces the values above from `b` to `a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b_to_a: Option<Direction>,
}

/// Values of one direction of a link; the link's own apply where absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Direction {
    /// See [`Link::rate`].
    pub rate: Option<Rate>,
    /// See [`Link::queue`].
    pub queue: Option<QueueLimit>,
    /// See [`Link::bottleneck`].
    pub bottleneck: Option<String>,
    /// See [`Link::delay`].
    pub delay: Option<Time>,
    /// See [`Link::jitter`].
    pub jitter: Option<Time>,
    /// See [`Link::loss`].
    pub loss: Option<Ratio>,
    /// See [`Link::seed`].
    pub seed: Option<u64>,
}

/// One end of a link.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Name of the host.
    pub host: String,
    /// Name of the interface there, at most 15 characters.
    pub dev: String,
    /// Addresses with prefix length.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// Next hops for packets sent *from* `addresses` to anywhere: each address leaves through
    /// this link, by a rule and a routing table of its own.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
}

/// What one direction of a link does, with all defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Where its frames wait.
    pub queue: ShapeQueue,
    /// One-way delay.
    pub delay: Duration,
    /// Largest additional delay.
    pub jitter: Duration,
    /// Share of lost packets, 0 to 1.
    pub loss: f64,
    /// Seed of loss and jitter.
    pub seed: u64,
}

/// Where the frames of one direction wait.
#[derive(Clone, Debug, PartialEq)]
pub enum ShapeQueue {
    /// Nowhere: the rate is unlimited.
    Unlimited,
    /// In a queue of their own.
    Own(Rate, QueueLimit),
    /// In the queue of a shared bottleneck.
    Shared(String),
}

fn default_mtu() -> u32 {
    1500
}

/// The queue of a rate that states none: 50 ms, at least 16 KiB.
pub fn default_queue(rate: Rate) -> QueueLimit {
    QueueLimit::Bytes((rate.0 / 8 / 20).max(16 * 1024))
}

/// Reads a map and refuses a key that occurs twice.
fn unique_keys<'de, D, V>(input: D) -> Result<BTreeMap<String, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    struct Unique<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Unique<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some(key) = access.next_key::<String>()? {
                if map.contains_key(&key) {
                    return Err(A::Error::custom(format!("\"{key}\" occurs twice")));
                }
                map.insert(key, access.next_value()?);
            }
            Ok(map)
        }
    }

    input.deserialize_map(Unique(PhantomData))
}

/// What is wrong with a file that parses: where, which word, and what was expected.
struct Problem {
    path: String,
    word: Option<String>,
    text: String,
}

fn problem(path: impl Into<String>, text: impl Into<String>) -> Problem {
    Problem {
        path: path.into(),
        word: None,
        text: text.into(),
    }
}

impl Problem {
    /// Names the offending word, so that its line can be shown.
    fn at(mut self, word: &str) -> Self {
        self.word = Some(word.to_owned());
        self
    }
}

impl Config {
    /// Reads and checks a lab file.
    pub fn load(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the lab file {}", file.display()))?;
        Self::parse(&text, &file.display().to_string())
    }

    /// Reads and checks a lab from text; `origin` is the name shown in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let mut input = serde_json::Deserializer::from_str(text);
        let config: Self = serde_path_to_error::deserialize(&mut input).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            let (line, column) = (inner.line(), inner.column());
            let mut message = inner.to_string();
            if let Some(end) = message.rfind(" at line ") {
                message.truncate(end);
            }
            if message == "invalid IP address syntax" {
                message += ": expected for example \"10.0.1.2\", of a network or an end of a link \
                            with its prefix length, \"10.0.1.2/24\"";
            }
            anyhow!("{origin}:{line}:{column}: {path}: {message}")
        })?;
        input.end().map_err(|error| {
            anyhow!(
                "{origin}:{}:{}: text after the lab",
                error.line(),
                error.column()
            )
        })?;
        config.validate().map_err(|problem| {
            let line = problem.word.as_deref().and_then(|word| line_of(text, word));
            match line {
                Some(line) => anyhow!("{origin}:{line}: {}: {}", problem.path, problem.text),
                None => anyhow!("{origin}: {}: {}", problem.path, problem.text),
            }
        })?;
        Ok(config)
    }

    /// The shapes of a link, from `a` to `b` and back.
    pub fn shapes(&self, index: usize) -> Result<[Shape; 2]> {
        let Some(link) = self.links.get(index) else {
            bail!("there is no link {index}");
        };
        Ok([link.shape(index, false), link.shape(index, true)])
    }

    fn validate(&self) -> Result<(), Problem> {
        if self.version != 1 {
            return Err(problem(
                "version",
                format!("is {}; this program reads 1", self.version),
            ));
        }
        if self.hosts.is_empty() {
            return Err(problem("hosts", "is empty: expected at least one host"));
        }
        for (name, host) in &self.hosts {
            check_name(&format!("hosts.{name}"), name)?;
            self.validate_host(name, host)?;
        }
        for name in self.bottlenecks.keys() {
            check_name(&format!("bottlenecks.{name}"), name)?;
        }
        let mut names = BTreeSet::new();
        let mut devices = BTreeSet::new();
        let mut addresses: HashMap<(&str, IpAddr), &str> = HashMap::new();
        for (index, link) in self.links.iter().enumerate() {
            let path = format!("links[{index}]");
            check_name(&format!("{path}.name"), &link.name)?;
            if !names.insert(link.name.as_str()) {
                return Err(problem(
                    format!("{path}.name"),
                    format!("there are two links \"{}\"", link.name),
                ));
            }
            self.validate_link(&path, link)?;
            for (side, end) in [("a", &link.a), ("b", &link.b)] {
                let path = format!("{path}.{side}");
                self.validate_end(&path, end)?;
                if !devices.insert((end.host.as_str(), end.dev.as_str())) {
                    return Err(problem(
                        format!("{path}.dev"),
                        format!("host \"{}\" has \"{}\" twice", end.host, end.dev),
                    ));
                }
                for address in &end.addresses {
                    let key = (end.host.as_str(), address.addr());
                    if let Some(other) = addresses.insert(key, &end.dev) {
                        return Err(problem(
                            format!("{path}.addresses"),
                            format!("{} is on \"{other}\" already", address.addr()),
                        )
                        .at(&address.to_string()));
                    }
                }
            }
        }
        Ok(())
    }

    fn validate_host(&self, name: &str, host: &Host) -> Result<(), Problem> {
        let path = format!("hosts.{name}");
        let devices: BTreeSet<&str> = self
            .links
            .iter()
            .flat_map(|link| [&link.a, &link.b])
            .filter(|end| end.host == name)
            .map(|end| end.dev.as_str())
            .collect();
        let known = |path: String, dev: &Option<String>| match dev {
            Some(dev) if dev != "lo" && !devices.contains(dev.as_str()) => {
                Err(unknown(path, "interface", dev, devices.iter().copied()))
            }
            _ => Ok(()),
        };
        for (index, route) in host.routes.iter().enumerate() {
            let path = format!("{path}.routes[{index}]");
            known(format!("{path}.dev"), &route.dev)?;
            match route.via {
                None if route.dev.is_none() => {
                    return Err(problem(path, "has neither \"via\" nor \"dev\""));
                }
                Some(via) if via.is_ipv4() != route.to.addr().is_ipv4() => {
                    return Err(problem(
                        format!("{path}.via"),
                        "is of another address family than \"to\"",
                    )
                    .at(&via.to_string()));
                }
                _ => {}
            }
        }
        if let Some(limits) = &host.mptcp.limits
            && (limits.subflows > 8 || limits.add_addr_accepted > 8)
        {
            return Err(problem(
                format!("{path}.mptcp.limits"),
                "expected values from 0 to 8",
            ));
        }
        for (index, endpoint) in host.mptcp.endpoints.iter().enumerate() {
            let path = format!("{path}.mptcp.endpoints[{index}]");
            known(format!("{path}.dev"), &endpoint.dev)?;
            let signal = endpoint.flags.contains(&EndpointFlag::Signal);
            if endpoint.port.is_some() && !signal {
                return Err(problem(format!("{path}.port"), "needs the flag \"signal\""));
            }
            if signal && endpoint.flags.contains(&EndpointFlag::Fullmesh) {
                return Err(problem(
                    format!("{path}.flags"),
                    "\"signal\" and \"fullmesh\" exclude each other",
                ));
            }
        }
        for key in host.sysctls.keys() {
            if !key.starts_with("net.") && !key.starts_with("net/") {
                return Err(problem(
                    format!("{path}.sysctls"),
                    format!("\"{key}\" belongs to the whole machine: expected net.…"),
                )
                .at(key));
            }
            if key.split(['.', '/']).any(str::is_empty) {
                return Err(
                    problem(format!("{path}.sysctls"), format!("\"{key}\" is no name")).at(key),
                );
            }
        }
        Ok(())
    }

    fn validate_end(&self, path: &str, end: &End) -> Result<(), Problem> {
        if !self.hosts.contains_key(&end.host) {
            let hosts = self.hosts.keys().map(String::as_str);
            return Err(unknown(format!("{path}.host"), "host", &end.host, hosts));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if end.dev.is_empty()
            || end.dev.len() > 15
            || !end.dev.chars().all(plain)
            || ["lo", ".", ".."].contains(&end.dev.as_str())
        {
            return Err(problem(
                format!("{path}.dev"),
                format!(
                    "\"{}\" is no interface name: expected 1 to 15 letters, digits, - _ .",
                    end.dev
                ),
            )
            .at(&end.dev));
        }
        for gateway in &end.gateways {
            if !end
                .addresses
                .iter()
                .any(|address| address.contains(gateway))
            {
                return Err(problem(
                    format!("{path}.gateways"),
                    format!("{gateway} is in no network of this end's addresses"),
                )
                .at(&gateway.to_string()));
            }
        }
        Ok(())
    }

    fn validate_link(&self, path: &str, link: &Link) -> Result<(), Problem> {
        if !(576..=MAX_MTU).contains(&link.mtu) {
            return Err(problem(
                format!("{path}.mtu"),
                format!("is {}: expected 576 to {MAX_MTU}", link.mtu),
            ));
        }
        if link.mtu < 1280
            && [&link.a, &link.b]
                .iter()
                .any(|end| end.addresses.iter().any(|address| address.addr().is_ipv6()))
        {
            return Err(problem(format!("{path}.mtu"), "IPv6 needs at least 1280"));
        }
        let common = Direction {
            rate: link.rate,
            queue: link.queue,
            bottleneck: link.bottleneck.clone(),
            delay: link.delay,
            jitter: link.jitter,
            loss: link.loss,
            seed: link.seed,
        };
        let directions = [
            (path.to_owned(), Some(&common)),
            (format!("{path}.a_to_b"), link.a_to_b.as_ref()),
            (format!("{path}.b_to_a"), link.b_to_a.as_ref()),
        ];
        for (path, direction) in directions {
            let Some(direction) = direction else { continue };
            let Direction {
                rate,
                queue,
                bottleneck,
                delay,
                jitter,
                loss,
                seed,
            } = direction;
            if let Some(name) = bottleneck {
                if !self.bottlenecks.contains_key(name) {
                    let names = self.bottlenecks.keys().map(String::as_str);
                    return Err(unknown(
                        format!("{path}.bottleneck"),
                        "bottleneck",
                        name,
                        names,
                    ));
                }
                if rate.is_some() || queue.is_some() {
                    return Err(problem(
                        path,
                        "\"bottleneck\" replaces \"rate\" and \"queue\"",
                    ));
                }
            }
            if link.kind == LinkKind::Veth
                && (rate.is_some()
                    || queue.is_some()
                    || bottleneck.is_some()
                    || delay.is_some()
                    || jitter.is_some()
                    || loss.is_some()
                    || seed.is_some())
            {
                return Err(problem(
                    path,
                    "a veth link is not emulated: only \"offload\" and \"mtu\"",
                ));
            }
        }
        if link.kind == LinkKind::Emulated && link.offload.is_some() {
            return Err(problem(
                format!("{path}.offload"),
                "needs \"kind\": \"veth\"; emulated links have complete checksums",
            ));
        }
        for (side, reverse) in [("a_to_b", false), ("b_to_a", true)] {
            let direction = if reverse { &link.b_to_a } else { &link.a_to_b };
            let queue = direction.as_ref().and_then(|d| d.queue).or(link.queue);
            let rate = direction.as_ref().and_then(|d| d.rate).or(link.rate);
            if queue.is_some() && rate.is_none() {
                return Err(problem(
                    format!("{path}.{side}"),
                    "a \"queue\" needs a \"rate\"",
                ));
            }
        }
        Ok(())
    }
}

impl Link {
    fn shape(&self, index: usize, reverse: bool) -> Shape {
        let own = Direction::default();
        let direction = if reverse { &self.b_to_a } else { &self.a_to_b };
        let direction = direction.as_ref().unwrap_or(&own);
        // A rate of the direction beats the link's bottleneck, and the other way round.
        let queue = match (&direction.bottleneck, direction.rate) {
            (Some(name), _) => ShapeQueue::Shared(name.clone()),
            (None, Some(rate)) => {
                let limit = direction.queue.or(self.queue);
                ShapeQueue::Own(rate, limit.unwrap_or_else(|| default_queue(rate)))
            }
            (None, None) => match (&self.bottleneck, self.rate) {
                (Some(name), _) => ShapeQueue::Shared(name.clone()),
                (None, Some(rate)) => {
                    let limit = direction.queue.or(self.queue);
                    ShapeQueue::Own(rate, limit.unwrap_or_else(|| default_queue(rate)))
                }
                (None, None) => ShapeQueue::Unlimited,
            },
        };
        // Both directions of every link draw from streams of their own.
        let default_seed =
            self.seed.unwrap_or(0).wrapping_mul(1_000_003) + 2 * index as u64 + u64::from(reverse);
        Shape {
            queue,
            delay: direction.delay.or(self.delay).unwrap_or_default().0,
            jitter: direction.jitter.or(self.jitter).unwrap_or_default().0,
            loss: direction.loss.or(self.loss).unwrap_or_default().0,
            seed: direction.seed.unwrap_or(default_seed),
        }
    }
}

fn check_name(path: &str, name: &str) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(plain) {
        return Err(problem(
            path,
            format!("\"{name}\" is no name: expected 1 to 63 of a-z, 0-9, - and _"),
        )
        .at(name));
    }
    Ok(())
}

fn unknown<'a>(
    path: String,
    what: &str,
    word: &str,
    known: impl Iterator<Item = &'a str>,
) -> Problem {
    let known: Vec<String> = known.map(|name| format!("\"{name}\"")).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    problem(
        path,
        format!("there is no {what} \"{word}\"; known: {known}"),
    )
    .at(word)
}

/// The line of the first string `word` in `text`.
fn line_of(text: &str, word: &str) -> Option<usize> {
    let quoted = serde_json::to_string(word).ok()?;
    let offset = text.find(&quoted)?;
    Some(text[..offset].matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: &str = r#"{
  "version": 1,
  "hosts": { "client": {}, "server": {} },
  "bottlenecks": { "cable": { "rate": "20Mbit" } },
  "links": [
    { "name": "path",
      "a": { "host": "client", "dev": "c0", "addresses": ["10.0.1.2/24", "fd00:1::2/64"] },
      "b": { "host": "server", "dev": "s0", "addresses": ["10.0.1.1/24"] },
      "rate": "20Mbit", "delay": "10ms", "loss": 0.01,
      "b_to_a": { "rate": "2Mbit", "delay": "0.5ms" } }
  ]
}"#;

    fn error(text: &str) -> String {
        Config::parse(text, "lab.json").unwrap_err().to_string()
    }

    #[test]
    fn directions_override_the_link() {
        let config = Config::parse(PAIR, "lab.json").unwrap();
        let [there, back] = config.shapes(0).unwrap();
        let queue = QueueLimit::Bytes(125_000);
        assert_eq!(there.queue, ShapeQueue::Own(Rate(20_000_000), queue));
        assert_eq!(there.delay, Duration::from_millis(10));
        assert_eq!(
            back.queue,
            ShapeQueue::Own(Rate(2_000_000), QueueLimit::Bytes(16_384))
        );
        assert_eq!(back.delay, Duration::from_micros(500));
        assert_eq!((there.loss, back.loss), (0.01, 0.01));
        assert_ne!(there.seed, back.seed);
    }

    #[test]
    fn a_direction_may_leave_the_shared_bottleneck() {
        let text = PAIR.replace(
            "\"rate\": \"20Mbit\", \"delay\"",
            "\"bottleneck\": \"cable\", \"delay\"",
        );
        let config = Config::parse(&text, "lab.json").unwrap();
        let [there, back] = config.shapes(0).unwrap();
        assert_eq!(there.queue, ShapeQueue::Shared("cable".to_owned()));
        assert!(matches!(back.queue, ShapeQueue::Own(Rate(2_000_000), _)));
    }

    #[test]
    fn errors_name_place_and_expectation() {
        // (what is replaced, by what, what the message says)
        let table = [
            (
                "\"dev\": \"c0\"",
                "\"device\": \"c0\"",
                "lab.json:7:39: links[0].a.device: unknown field `device`, expected one of",
            ),
            (
                "\"10ms\"",
                "\"10\"",
                "lab.json:9:37: links[0].delay: \"10\" is no time: expected for example",
            ),
            (
                "\"rate\": \"20Mbit\", \"delay\"",
                "\"rate\": 20, \"delay\"",
                "links[0].rate: invalid type: integer `20`, expected a string",
            ),
            ("0.01", "1.01", "links[0].loss: 1.01 is no ratio"),
            (
                "\"host\": \"client\"",
                "\"host\": \"clint\"",
                "lab.json:7: links[0].a.host: there is no host \"clint\"; known: \"client\", \"server\"",
            ),
            (
                "\"server\": {}",
                "\"client\": {}",
                "lab.json:3:35: hosts: \"client\" occurs twice",
            ),
            (
                "\"version\": 1",
                "\"version\": 2",
                "lab.json: version: is 2; this program reads 1",
            ),
            (
                "\"dev\": \"c0\"",
                "\"dev\": \"interface-name-16\"",
                "is no interface name: expected 1 to 15",
            ),
            (
                "\"10.0.1.1/24\"",
                "\"10.0.1.1/33\"",
                "links[0].b.addresses[0]: invalid IP address syntax: expected for example",
            ),
            (
                "\"rate\": \"20Mbit\", \"delay\"",
                "\"rate\": \"20Mbit\", \"bottleneck\": \"cable\", \"delay\"",
                "\"bottleneck\" replaces \"rate\" and \"queue\"",
            ),
            (
                "\"rate\": \"20Mbit\", \"delay\"",
                "\"bottleneck\": \"dsl\", \"delay\"",
                "there is no bottleneck \"dsl\"; known: \"cable\"",
            ),
            (
                "\"rate\": \"20Mbit\", \"delay\"",
                "\"queue\": \"64KiB\", \"delay\"",
                "links[0].a_to_b: a \"queue\" needs a \"rate\"",
            ),
            (
                "\"delay\": \"10ms\"",
                "\"offload\": true",
                "links[0].offload: needs \"kind\": \"veth\"",
            ),
            (
                "\"delay\": \"10ms\"",
                "\"kind\": \"veth\"",
                "a veth link is not emulated",
            ),
            (
                "\"delay\": \"10ms\"",
                "\"mtu\": 1000",
                "IPv6 needs at least 1280",
            ),
            (
                "\"client\": {}",
                "\"client\": {\"sysctls\": {\"vm.swappiness\": \"1\"}}",
                "belongs to the whole machine",
            ),
            (
                "\"client\": {}",
                "\"client\": {\"routes\": [{\"to\": \"0.0.0.0/0\", \"dev\": \"c9\"}]}",
                "hosts.client.routes[0].dev: there is no interface \"c9\"; known: \"c0\"",
            ),
            (
                "\"client\": {}",
                "\"client\": {\"mptcp\": {\"endpoints\": [{\"address\": \"10.0.1.2\", \"port\": 5, \"flags\": [\"subflow\"]}]}}",
                "endpoints[0].port: needs the flag \"signal\"",
            ),
        ];
        let mut wrong = Vec::new();
        for (from, to, expected) in table {
            assert!(PAIR.contains(from), "{from}");
            let message = error(&PAIR.replacen(from, to, 1));
            if !message.contains(expected) {
                wrong.push(format!("{to}: {message}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(error("{").contains("lab.json:1:1"), "{}", error("{"));
        assert!(error(&format!("{PAIR} x")).contains("text after the lab"));
    }
}
