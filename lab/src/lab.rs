//! A lab that stands: namespaces, links, and the relay between them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::config::{Config, End, EndpointFlag, Host, Link, LinkKind};
use crate::netns;
use crate::relay::{Ends, Relay, Report};
use crate::tap::Tap;

/// Where running labs hold a lock each.
const LOCKS: &str = "/run/emptcp-lab";
/// First routing table for the addresses of a link's end; `gateways` uses one per end.
const FIRST_TABLE: usize = 7000;
/// Begins the names of all labs that were given no prefix of their own.
pub const DEFAULT_PREFIX: &str = "emptcp-lab-";

/// A lab that stands. Dropping it removes everything.
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// let lab = emptcp_lab::Lab::from_file("lab/examples/two-paths.json")?;
/// let addresses = lab.within("client", || std::net::UdpSocket::bind("10.0.1.2:0"))?;
/// let report = lab.finish()?;
/// assert!(!report.disturbed(), "measure again");
/// # Ok(())
/// # }
/// ```
pub struct Lab {
    prefix: String,
    config: Config,
    // Dropped in this order: the relay and its devices, the namespaces, the lock.
    relay: Relay,
    namespaces: Namespaces,
    _lock: Lock,
}

impl Lab {
    /// Builds the lab of a file under a prefix that no other lab has.
    pub fn from_file(file: impl AsRef<Path>) -> Result<Self> {
        Self::start(Config::load(file.as_ref())?, None)
    }

    /// Builds a lab from JSON text under a prefix that no other lab has.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::start(Config::parse(text, "lab")?, None)
    }

    /// Builds a lab. The prefix begins the names of its namespaces; `emptcp-lab-<pid>-` when
    /// none is given, with a number for the second and further labs of a process.
    pub fn start(config: Config, prefix: Option<&str>) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let prefix = match prefix {
            Some(prefix) => prefix.to_owned(),
            None => match LABS.fetch_add(1, Ordering::Relaxed) {
                0 => format!("{DEFAULT_PREFIX}{}-", std::process::id()),
                number => format!("{DEFAULT_PREFIX}{}.{number}-", std::process::id()),
            },
        };
        check_prefix(&prefix)?;
        if !nix::unistd::geteuid().is_root() {
            bail!("a lab needs root: it makes network namespaces and devices");
        }
        let lock = Lock::take(&prefix)?;
        let mut namespaces = Namespaces {
            names: BTreeMap::new(),
        };
        for host in config.hosts.keys() {
            namespaces.add(host, format!("{prefix}{host}"))?;
        }
        let ends = build(&config, &namespaces)?;
        let relay = Relay::start(&config, ends)?;
        Ok(Self {
            prefix,
            config,
            relay,
            namespaces,
            _lock: lock,
        })
    }

    /// What the lab was built from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The prefix of its namespaces' names.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The name of a host's namespace, as `ip -n` wants it. Panics when there is no such host.
    pub fn netns(&self, host: &str) -> &str {
        match self.namespaces.names.get(host) {
            Some(name) => name,
            None => panic!("the lab has no host \"{host}\""),
        }
    }

    /// The file of a host's namespace, for `nsenter --net=`.
    pub fn netns_path(&self, host: &str) -> PathBuf {
        netns::path(self.netns(host))
    }

    /// Runs `work` in a thread inside a host's namespace.
    pub fn within<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
        netns::within(self.netns(host), work)
    }

    /// Starts a command inside a host's namespace; mounts (bpffs) are the caller's own.
    pub fn spawn(&self, host: &str, command: &mut Command) -> Result<Child> {
        netns::spawn(self.netns(host), command)
    }

    /// Variables for commands that use the lab: `EMPTCP_LAB_PREFIX`, `EMPTCP_LAB_NS_<HOST>`
    /// (the host in capitals, `-` as `_`) and `EMPTCP_LAB` (this program), the latter only from
    /// the `emptcp-lab` command itself.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut variables = vec![(netns::PREFIX_VARIABLE.to_owned(), self.prefix.clone())];
        for (host, name) in &self.namespaces.names {
            let host = host.to_ascii_uppercase().replace('-', "_");
            variables.push((format!("EMPTCP_LAB_NS_{host}"), name.clone()));
        }
        variables
    }

    /// What the relay did so far.
    pub fn report(&self) -> Report {
        self.relay.report()
    }

    /// Removes the lab and returns what the relay did.
    pub fn finish(mut self) -> Result<Report> {
        let stopped = self.relay.stop();
        let report = self.relay.report();
        let removed = self.namespaces.remove();
        stopped?;
        removed?;
        Ok(report)
    }
}

/// Measures in a fresh lab until the relay was undisturbed, at most `attempts` times.
///
/// `measure` returns a result to judge *after* it is known whether the run counts; its own errors
/// end the attempts only in an undisturbed run.
pub fn undisturbed<T>(
    attempts: u32,
    config: &Config,
    mut measure: impl FnMut(&Lab) -> Result<T>,
) -> Result<(T, Report)> {
    for attempt in 1..=attempts {
        let lab = Lab::start(config.clone(), None)?;
        let result = measure(&lab);
        let report = lab.finish()?;
        if !report.disturbed() {
            return result.map(|value| (value, report));
        }
        let lateness = &report.lateness;
        eprintln!(
            "emptcp-lab: attempt {attempt} of {attempts} was disturbed: {} of {} frames over 5 ms \
             late, at most {} ms",
            lateness.late,
            lateness.packets,
            lateness.max_us / 1000
        );
    }
    bail!("all {attempts} attempts were disturbed: the machine is too busy for this measurement")
}

/// Removes what dead labs left: namespaces whose names begin with `prefix` and that belong to no
/// running lab. Returns their names.
pub fn clean(prefix: &str) -> Result<Vec<String>> {
    check_prefix(prefix)?;
    let mut living = Vec::new();
    let entries = match fs::read_dir(LOCKS) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {LOCKS}")),
    };
    for entry in entries {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Some(other) = name.strip_suffix(".lock") else {
            continue;
        };
        // A prefix may begin another one, in either direction.
        if !other.starts_with(prefix) && !prefix.starts_with(other) {
            continue;
        }
        match Lock::take(other) {
            // Nobody holds it: dropping it removes the file.
            Ok(lock) => drop(lock),
            Err(_) => living.push(other.to_owned()),
        }
    }
    let mut removed = Vec::new();
    for name in netns::list(prefix)? {
        if !living.iter().any(|other| name.starts_with(other.as_str())) {
            netns::delete(&name)?;
            removed.push(name);
        }
    }
    Ok(removed)
}

fn check_prefix(prefix: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(plain) {
        bail!("\"{prefix}\" is no prefix: expected 1 to 64 letters, digits, - _ .");
    }
    Ok(())
}

/// The claim of a running lab to its prefix.
struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    fn take(prefix: &str) -> Result<Self> {
        fs::create_dir_all(LOCKS).with_context(|| format!("cannot make {LOCKS} (needs root)"))?;
        let path = Path::new(LOCKS).join(format!("{prefix}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { path, _file: file }),
            Err(_) => bail!("a lab with the prefix \"{prefix}\" is running"),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked here, so it is ours.
        let _ = fs::remove_file(&self.path);
    }
}

/// Namespaces by host; removed when dropped.
struct Namespaces {
    names: BTreeMap<String, String>,
}

impl Namespaces {
    fn add(&mut self, host: &str, name: String) -> Result<()> {
        netns::add(&name)?;
        self.names.insert(host.to_owned(), name);
        Ok(())
    }

    /// Removes all, also after one failed; returns the first failure.
    fn remove(&mut self) -> Result<()> {
        let mut result = Ok(());
        for name in std::mem::take(&mut self.names).into_values() {
            if let Err(error) = netns::delete(&name)
                && result.is_ok()
            {
                result = Err(error);
            }
        }
        result
    }

    fn of(&self, host: &str) -> Result<&str> {
        let name = self
            .names
            .get(host)
            .with_context(|| format!("there is no host {host}"))?;
        Ok(name)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("emptcp-lab: {error:#}");
        }
    }
}

/// Makes and configures all devices; returns the ends of the emulated links.
fn build(config: &Config, namespaces: &Namespaces) -> Result<Vec<Ends>> {
    for (host, settings) in &config.hosts {
        // Addresses are usable at once, and nothing is sent that nobody asked for.
        let mut sysctls: Vec<(String, String)> = vec![
            ("net.ipv6.conf.default.accept_dad".into(), "0".into()),
            ("net.ipv6.conf.default.accept_ra".into(), "0".into()),
            (
                "net.ipv6.conf.default.router_solicitations".into(),
                "0".into(),
            ),
            ("net.ipv4.conf.all.rp_filter".into(), "0".into()),
            ("net.ipv4.conf.default.rp_filter".into(), "0".into()),
        ];
        if settings.forward {
            sysctls.push(("net.ipv4.ip_forward".into(), "1".into()));
            sysctls.push(("net.ipv6.conf.all.forwarding".into(), "1".into()));
        }
        netns::write_sysctls(namespaces.of(host)?, &sysctls)?;
    }

    let mut emulated = Vec::new();
    for (index, link) in config.links.iter().enumerate() {
        match link.kind {
            LinkKind::Emulated => {
                let tap = |end: &End| Tap::create(namespaces.of(&end.host)?, &end.dev);
                emulated.push(Ends {
                    link: index,
                    taps: [tap(&link.a)?, tap(&link.b)?],
                });
            }
            LinkKind::Veth => {
                let line = format!(
                    "link add {} type veth peer name {} netns {}",
                    link.a.dev,
                    link.b.dev,
                    namespaces.of(&link.b.host)?
                );
                netns::ip_batch(namespaces.of(&link.a.host)?, None, &[line])?;
                if let Some(offload) = link.offload {
                    for end in [&link.a, &link.b] {
                        set_offload(namespaces.of(&end.host)?, &end.dev, offload)?;
                    }
                }
            }
        }
    }

    for (host, settings) in &config.hosts {
        let name = namespaces.of(host)?;
        netns::ip_batch(name, None, &host_lines(config, host, settings))?;
        // `ip rule` does not learn the family from the address.
        for (option, v4) in [("-4", true), ("-6", false)] {
            netns::ip_batch(name, Some(option), &rule_lines(config, host, settings, v4))?;
        }
        let own: Vec<_> = settings
            .sysctls
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        netns::write_sysctls(name, &own)?;
    }
    Ok(emulated)
}

/// The lines of `ip -batch` that configure a host.
fn host_lines(config: &Config, host: &str, settings: &Host) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned()];
    let mut table = FIRST_TABLE;
    for (index, link) in config.links.iter().enumerate() {
        for (side, (end, peer)) in [(&link.a, &link.b), (&link.b, &link.a)].iter().enumerate() {
            if end.host != host {
                continue;
            }
            end_lines(&mut lines, link, end, peer, index, side);
            if !end.gateways.is_empty() {
                source_routing(&mut lines, end, table);
                table += 1;
            }
        }
    }
    for route in &settings.routes {
        let mut line = format!("route add {}", route.to);
        if let Some(via) = route.via {
            line += &format!(" via {via}");
        }
        if let Some(dev) = &route.dev {
            line += &format!(" dev {dev}");
        }
        if let Some(table) = route.table {
            line += &format!(" table {table}");
        }
        lines.push(line);
    }
    if let Some(limits) = &settings.mptcp.limits {
        lines.push(format!(
            "mptcp limits set subflow {} add_addr_accepted {}",
            limits.subflows, limits.add_addr_accepted
        ));
    }
    for endpoint in &settings.mptcp.endpoints {
        let mut line = format!("mptcp endpoint add {}", endpoint.address);
        if let Some(port) = endpoint.port {
            line += &format!(" port {port}");
        }
        if let Some(dev) = &endpoint.dev {
            line += &format!(" dev {dev}");
        }
        if let Some(id) = endpoint.id {
            line += &format!(" id {id}");
        }
        for flag in endpoint.flags.iter().copied().map(EndpointFlag::name) {
            line += &format!(" {flag}");
        }
        lines.push(line);
    }
    lines
}

/// Device, addresses and the peer's fixed hardware address.
fn end_lines(
    lines: &mut Vec<String>,
    link: &Link,
    end: &End,
    peer: &End,
    index: usize,
    side: usize,
) {
    let dev = &end.dev;
    lines.push(format!(
        "link set dev {dev} address {} mtu {} addrgenmode none",
        hardware_address(index, side),
        link.mtu
    ));
    lines.push(format!("link set dev {dev} up"));
    for address in &end.addresses {
        let nodad = if address.addr().is_ipv6() {
            " nodad"
        } else {
            ""
        };
        lines.push(format!("address add {address} dev {dev}{nodad}"));
    }
    // No ARP and no neighbour discovery between the ends: nothing disturbs a seeded loss.
    for address in &peer.addresses {
        lines.push(format!(
            "neighbour replace {} lladdr {} dev {dev} nud permanent",
            address.addr(),
            hardware_address(index, 1 - side)
        ));
    }
}

/// The routing rules of a host, of one address family.
fn rule_lines(config: &Config, host: &str, settings: &Host, v4: bool) -> Vec<String> {
    let ends = config.links.iter().flat_map(|link| [&link.a, &link.b]);
    let routed = ends.filter(|end| end.host == host && !end.gateways.is_empty());
    let mut lines = Vec::new();
    for (table, end) in (FIRST_TABLE..).zip(routed) {
        for address in &end.addresses {
            let gateway = end.gateways.iter().any(|gateway| gateway.is_ipv4() == v4);
            if address.addr().is_ipv4() == v4 && gateway {
                lines.push(format!("rule add from {} table {table}", address.addr()));
            }
        }
    }
    for rule in &settings.rules {
        if rule.from.addr().is_ipv4() == v4 {
            lines.push(format!("rule add from {} table {}", rule.from, rule.table));
        }
    }
    lines
}

/// The routing table of an end: everything leaves through it.
fn source_routing(lines: &mut Vec<String>, end: &End, table: usize) {
    let dev = &end.dev;
    for address in &end.addresses {
        let Some(gateway) = end
            .gateways
            .iter()
            .find(|gateway| gateway.is_ipv4() == address.addr().is_ipv4())
        else {
            continue;
        };
        let everywhere = if gateway.is_ipv4() {
            "0.0.0.0/0"
        } else {
            "::/0"
        };
        lines.push(format!(
            "route replace {} dev {dev} table {table}",
            address.trunc()
        ));
        lines.push(format!(
            "route replace {everywhere} via {gateway} dev {dev} table {table}"
        ));
    }
}

/// A locally administered address that is the same in every run.
fn hardware_address(link: usize, side: usize) -> String {
    format!(
        "02:00:00:{:02x}:{:02x}:{:02x}",
        link >> 8 & 0xff,
        link & 0xff,
        side + 1
    )
}

fn set_offload(namespace: &str, dev: &str, on: bool) -> Result<()> {
    let state = if on { "on" } else { "off" };
    let child = netns::spawn(
        namespace,
        Command::new("ethtool")
            .args(["-K", dev, "tx", state])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped()),
    )?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!(
            "in {namespace}: ethtool -K {dev} tx {state}: {}",
            message.trim()
        );
    }
    Ok(())
}

/// Waits until `condition` holds, at most `time`; returns whether it does.
pub fn eventually(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_configured_in_an_order_that_ip_accepts() {
        let config = Config::parse(
            r#"{ "version": 1,
                 "hosts": { "a": { "routes": [{ "to": "10.9.0.0/16", "via": "10.0.1.1" }],
                                   "mptcp": { "limits": { "subflows": 2 },
                                              "endpoints": [{ "address": "10.0.1.2", "dev": "a0",
                                                              "flags": ["backup", "subflow"] }] } },
                            "b": {} },
                 "links": [{ "name": "l", "mtu": 1400,
                             "a": { "host": "a", "dev": "a0", "addresses": ["10.0.1.2/24"],
                                    "gateways": ["10.0.1.1"] },
                             "b": { "host": "b", "dev": "b0", "addresses": ["10.0.1.1/24"] } }] }"#,
            "lab",
        )
        .unwrap();
        let host = config.hosts.get("a").unwrap();
        let expected = [
            "link set lo up",
            "link set dev a0 address 02:00:00:00:00:01 mtu 1400 addrgenmode none",
            "link set dev a0 up",
            "address add 10.0.1.2/24 dev a0",
            "neighbour replace 10.0.1.1 lladdr 02:00:00:00:00:02 dev a0 nud permanent",
            "route replace 10.0.1.0/24 dev a0 table 7000",
            "route replace 0.0.0.0/0 via 10.0.1.1 dev a0 table 7000",
            "route add 10.9.0.0/16 via 10.0.1.1",
            "mptcp limits set subflow 2 add_addr_accepted 0",
            "mptcp endpoint add 10.0.1.2 dev a0 subflow backup",
        ];
        assert_eq!(host_lines(&config, "a", host), expected);
        let rules = ["rule add from 10.0.1.2 table 7000"];
        assert_eq!(rule_lines(&config, "a", host, true), rules);
        assert!(rule_lines(&config, "a", host, false).is_empty());
    }

    #[test]
    fn prefixes() {
        assert!(check_prefix("emptcp-lab-1-").is_ok());
        for bad in ["", "../x", "a b", "a/b"] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }
}
