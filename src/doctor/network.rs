//! Multipath TCP, the hooks, the interfaces.

use super::Finding;
use super::facts::Facts;
use super::facts::Known;
use super::facts::Leaving;
use super::facts::Port;
use crate::interface::ONE_BUFFER_MTU;
use crate::module::KernelVersion;

/// TCX came with this kernel.
const TCX: KernelVersion = KernelVersion(6, 6);
/// Drivers tell what they can at XDP since then.
const XDP_FEATURES: KernelVersion = KernelVersion(6, 3);
/// `NETDEV_XDP_ACT_BASIC`: the driver runs XDP.
const XDP_BASIC: u64 = 1;
/// `NETDEV_XDP_ACT_NDO_XMIT`: it takes packets that are redirected there at XDP.
const XDP_NDO_XMIT: u64 = 1 << 2;
/// `NETDEV_XDP_ACT_RX_SG`: also for packets of several buffers.
const XDP_RX_SG: u64 = 1 << 5;
/// The most names in one line.
const MOST_NAMES: usize = 6;

pub(super) fn mptcp(facts: &Facts) -> Vec<Finding> {
    let routers = "chains treat the packets of others all the same, as on a router or a hypervisor";
    vec![match &facts.mptcp {
        Err(why) => Finding::unknown(why),
        Ok(Some(true)) => Finding::ok("net.mptcp.enabled is 1"),
        Ok(Some(false)) => Finding::warn("net.mptcp.enabled is 0 in this network namespace")
            .means(format!("its sockets speak plain TCP; {routers}"))
            .cure("sysctl -w net.mptcp.enabled=1"),
        Ok(None) => Finding::warn("the kernel has no Multipath TCP")
            .means(format!("sockets here speak plain TCP; {routers}"))
            .cure("(a kernel with CONFIG_MPTCP)"),
    }]
}

pub(super) fn path_manager(facts: &Facts) -> Vec<Finding> {
    if facts.mptcp != Ok(Some(true)) {
        return Vec::new();
    }
    let manager = match &facts.path_manager {
        Ok(manager) => manager,
        Err(why) => return vec![Finding::unknown(why)],
    };
    if manager != "kernel" {
        return vec![
            Finding::warn(format!("{manager}: a process makes the subflows"))
                .means("without one, such as mptcpd, connections have one subflow; `ip mptcp` has no effect")
                .cure("sysctl -w net.mptcp.pm_type=0"),
        ];
    }
    vec![match &facts.limits {
        Err(why) => Finding::unknown(format!("kernel; its limits: {why}")),
        Ok(limits) if limits.subflows == 0 => Finding::warn("kernel, no subflow beside the first")
            .means("connections of this host have one path")
            .cure("ip mptcp limits set subflow 2"),
        Ok(limits) => {
            let found = format!(
                "kernel, {} subflows beside the first, {} announced addresses are used",
                limits.subflows, limits.add_addr_accepted
            );
            let finding = Finding::ok(found);
            match limits.add_addr_accepted {
                0 => finding
                    .means("a client makes no subflows to addresses that servers announce")
                    .cure("ip mptcp limits set add_addr_accepted 2"),
                _ => finding,
            }
        }
    }]
}

pub(super) fn tc(facts: &Facts) -> Vec<Finding> {
    vec![match (&facts.tcx, facts.kernel()) {
        (Ok(true), _) => Finding::ok("TCX"),
        (Ok(false), Some(kernel)) if kernel < TCX => Finding::ok("clsact, as before Linux 6.6")
            .means("\"position\": { \"before\": … } is refused"),
        (Ok(false), _) => Finding::warn("this kernel should have TCX and has not")
            .means("clsact is used; \"position\": { \"before\": … } is refused")
            .cure("(a kernel with CONFIG_NET_XGRESS)"),
        (Err(why), _) => Finding::unknown(why),
    }]
}

pub(super) fn xdp(facts: &Facts) -> Vec<Finding> {
    let ports = match &facts.ports {
        Ok(ports) => ports,
        Err(why) => return vec![Finding::unknown(why)],
    };
    let told = facts.kernel().is_some_and(|kernel| kernel >= XDP_FEATURES);
    let can = |port: &Port, feature| port.xdp.as_ref().is_ok_and(|xdp| xdp & feature != 0);
    let mut findings = Vec::new();
    if told {
        let known = ports
            .iter()
            .filter(|p| p.xdp.is_ok() && p.interface.name != "lo");
        let (native, generic): (Vec<_>, Vec<_>) = known.partition(|p| can(p, XDP_BASIC));
        if !native.is_empty() {
            findings.push(Finding::ok(format!("native: {}", names(native))));
        }
        if !generic.is_empty() {
            findings.push(
                Finding::ok(format!("generic only: {}", names(generic)))
                    .means("behind the driver, as fast as tc; \"mode\": \"native\" is refused"),
            );
        }
    } else {
        findings.push(Finding::unknown(
            "drivers tell what they can since Linux 6.3",
        ));
    }
    let large =
        |p: &&Port| p.interface.mtu > ONE_BUFFER_MTU && can(p, XDP_BASIC) && !can(p, XDP_RX_SG);
    let large: Vec<_> = ports.iter().filter(large).collect();
    if !large.is_empty() {
        findings.push(
            Finding::warn(format!("no native XDP at this MTU: {}", names(large)))
                .means(format!(
                    "these drivers take packets of one buffer, an MTU of {ONE_BUFFER_MTU} at most"
                ))
                .cure("(use tc-ingress, or \"mode\": \"generic\")"),
        );
    }
    let hides = |p: &&Port| p.interface.hides_partial_checksums() && p.interface.name != "lo";
    let (complete, partial): (Vec<_>, Vec<_>) = ports
        .iter()
        .filter(hides)
        .partition(|p| p.peer_completes_checksums == Ok(true));
    if !complete.is_empty() {
        findings.push(
            Finding::ok(format!("checksums are complete: {}", names(complete)))
                .means("\"trust_checksums\" may be said there, as long as that stays"),
        );
    }
    if !partial.is_empty() {
        findings.push(
            Finding::ok(format!("checksums may be incomplete: {}", names(partial)))
                .means("actors that edit are refused at xdp there; use tc-ingress"),
        );
    }
    findings
}

pub(super) fn qdisc(facts: &Facts) -> Vec<Finding> {
    let Ok(ports) = &facts.ports else {
        return Vec::new();
    };
    let queues = |p: &&Port| p.up && p.qdiscs.iter().any(|q| q != "noqueue" && q != "clsact");
    let (fq, other): (Vec<_>, Vec<_>) = ports.iter().filter(queues).partition(|p| {
        let beside = |q: &String| ["mq", "clsact", "ingress"].contains(&q.as_str());
        let mut waiting = p.qdiscs.iter().filter(|q| !beside(q)).peekable();
        waiting.peek().is_some() && waiting.all(|q| q == "fq")
    });
    let mut findings = Vec::new();
    if !fq.is_empty() {
        findings.push(Finding::ok(format!("fq, which paces: {}", names(fq))));
    }
    if let Some(first) = other.first().map(|p| p.interface.name.clone()) {
        findings.push(
            Finding::ok(format!("does not pace: {}", names(other)))
                .means("actors that give packets a time to leave need fq there; no other does")
                .cure(format!("tc qdisc replace dev {first} root fq")),
        );
    }
    findings
}

pub(super) fn rp_filter(facts: &Facts) -> Vec<Finding> {
    let Ok(ports) = &facts.ports else {
        return Vec::new();
    };
    let uplinks: Vec<&Port> = ports
        .iter()
        .filter(|p| p.up && p.ipv4 && p.interface.name != "lo")
        .collect();
    if uplinks.len() < 2 {
        return vec![Finding::ok(
            "one interface with addresses: nothing to filter",
        )];
    }
    let mut findings = Vec::new();
    for port in &uplinks {
        let name = &port.interface.name;
        match &port.rp_filter {
            Err(why) => findings.push(Finding::unknown(why)),
            Ok(1) => findings.push(
                Finding::warn(format!(
                    "strict at {name}, one of {} interfaces with addresses",
                    uplinks.len()
                ))
                .means(
                    "IPv4 packets that come by another interface than the route back are dropped: \
                         subflows fail where paths are steered and no rule routes by source",
                )
                .cure(loose(name)),
            ),
            Ok(_) => {}
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!("loose or off: {}", names(uplinks))));
    }
    findings
}

/// How to take strict filtering off an interface.
fn loose(name: &str) -> String {
    // As a path: names of interfaces may hold dots.
    format!("sysctl -w net/ipv4/conf/{name}/rp_filter=2")
}

/// What is in the way of packets that leave by an interface past routing.
pub(super) fn leaving_by(leaving: &Leaving, kernel: KernelVersion) -> Vec<Finding> {
    let name = &leaving.interface.name;
    let mut findings = Vec::new();
    if leaving.rp_filter == Ok(1) {
        findings.push(
            Finding::warn(format!("rp_filter is strict at {name}"))
                .means(
                    "answers over IPv4 that come back there are dropped unless the route to \
                     their source leads there",
                )
                .cure(loose(name)),
        );
    }
    let takes_none = |xdp: &Known<u64>| xdp.as_ref().is_ok_and(|xdp| xdp & XDP_NDO_XMIT == 0);
    if kernel >= XDP_FEATURES && leaving.xdp.as_ref().is_some_and(takes_none) {
        let veth = leaving.interface.kind.as_deref() == Some("veth");
        findings.push(
            Finding::warn(format!("{name} takes no packets from XDP"))
                .means("what is redirected there at XDP is lost")
                .cure(match veth {
                    true => "ethtool -K PEER gro on (at the other end), or tc-ingress",
                    false => "(use tc-ingress)",
                }),
        );
    }
    findings
}

/// `eth0, veth1 (veth) and 3 more`
fn names(ports: Vec<&Port>) -> String {
    let name = |port: &&Port| match &port.interface.kind {
        Some(kind) => format!("{} ({kind})", port.interface.name),
        None => port.interface.name.clone(),
    };
    let shown: Vec<String> = ports.iter().take(MOST_NAMES).map(name).collect();
    match ports.len().saturating_sub(MOST_NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
