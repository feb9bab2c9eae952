use super::facts::Facts;
use super::facts::Known;
use super::facts::Leaving;
use super::facts::Port;
use super::*;
use crate::datapath::Leftovers;
use crate::datapath::MptcpLimits;
use crate::interface::Interface;

const ROOT: u64 = (1 << 41) - 1;
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

fn port(name: &str) -> Port {
    Port {
        interface: Interface {
            index: 2,
            name: name.to_owned(),
            altnames: Vec::new(),
            mtu: 1500,
            up: true,
            kind: None,
            raw_ip: false,
            xdp_program: None,
        },
        up: true,
        ipv4: true,
        qdiscs: vec!["mq".to_owned(), "fq".to_owned()],
        xdp: Ok(0x23),
        peer_completes_checksums: Err("elsewhere".to_owned()),
        rp_filter: Ok(2),
    }
}

/// A machine with nothing to complain of.
fn able() -> Facts {
    Facts {
        release: "6.12.48+deb13-amd64".to_owned(),
        machine: "x86_64".to_owned(),
        modules: vec![("mptcp".to_owned(), KernelVersion(5, 10))],
        first_user_namespace: Ok(true),
        capabilities: Ok(ROOT),
        bpf: vec![("programs of tc", Ok(true))],
        memlock: Ok(Some(65536)),
        jit: Ok(1),
        jit_harden: Ok(0),
        btf: true,
        bpffs: Ok(Ok(("/sys/fs/bpf".into(), true))),
        leftovers: Ok(Leftovers::default()),
        mptcp: Ok(Some(true)),
        path_manager: Ok("kernel".to_owned()),
        limits: Ok(MptcpLimits {
            subflows: 2,
            add_addr_accepted: 2,
        }),
        tcx: Ok(true),
        ports: Ok(vec![port("eth0"), port("eth1")]),
    }
}

#[test]
fn nothing_to_complain_of() {
    let findings = judge(&able());
    assert!(is_able(&findings));
    for finding in &findings {
        assert_eq!(
            (finding.verdict, &finding.cure),
            (Verdict::Ok, &None),
            "{finding:?}"
        );
    }
    // Each check says something, but for those of older kernels.
    for (check, _) in CHECKS {
        assert_eq!(
            findings.iter().any(|f| f.check == check),
            check != "memlock",
            "{check}"
        );
    }
}

/// One thing is wrong: this check says so in these words, and no other check complains.
#[test]
fn one_thing_is_wrong() {
    type Wrong = fn(&mut Facts);
    use Verdict::Fail;
    use Verdict::Ok as Fine;
    use Verdict::Unknown;
    use Verdict::Warn;
    #[rustfmt::skip]
    let rows: &[(Wrong, &str, Verdict, &str)] = &[
        (|f| f.machine = "aarch64".into(), "kernel", Warn, "aarch64"),
        (|f| f.modules.push(("new".into(), KernelVersion(6, 13))), "modules", Warn, "new needs Linux 6.13"),
        (|f| f.first_user_namespace = Ok(false), "user-namespace", Fail, "user namespace of its own"),
        (|f| f.first_user_namespace = Err("why".into()), "user-namespace", Unknown, "why"),
        (|f| f.capabilities = Ok(CAP_BPF | CAP_PERFMON), "capabilities", Fail, "lacks CAP_NET_ADMIN"),
        (|f| f.capabilities = Ok(CAP_BPF | CAP_NET_ADMIN), "capabilities", Fail, "lacks CAP_PERFMON"),
        (|f| f.capabilities = Ok(CAP_BPF | CAP_NET_ADMIN | CAP_PERFMON), "capabilities", Fine, "CAP_BPF"),
        (|f| f.capabilities = Ok(CAP_SYS_ADMIN | CAP_NET_ADMIN), "capabilities", Fine, "CAP_BPF"),
        (|f| f.capabilities = Err("why".into()), "capabilities", Unknown, "why"),
        (|f| f.bpf = vec![("maps of type hash", Ok(false))], "bpf", Fail, "no maps of type hash"),
        (|f| f.bpf = vec![("maps of type hash", Err("why".into()))], "bpf", Unknown, "why"),
        (|f| f.jit = Ok(0), "jit", Warn, "interpreted"),
        (|f| f.jit = Ok(2), "jit", Warn, "dumped"),
        (|f| f.jit = Err("why".into()), "jit", Unknown, "why"),
        (|f| f.jit_harden = Ok(1), "jit-harden", Fine, "privileged"),
        (|f| f.jit_harden = Ok(2), "jit-harden", Warn, "blinded"),
        (|f| f.btf = false, "btf", Warn, "/sys/kernel/btf/vmlinux"),
        (|f| f.bpffs = Ok(Err("why".into())), "bpffs", Fail, "no BPF file system"),
        (|f| f.bpffs = Err("why".into()), "bpffs", Unknown, "why"),
        (|f| f.bpffs = Ok(Ok(("/b".into(), false))), "bpffs", Fine, "none is mounted at /b"),
        (|f| f.leftovers = Err("why".into()), "policy", Unknown, "why"),
        (|f| f.leftovers = Ok(Leftovers { locked_by: Some("7".into()), ..Leftovers::default() }), "policy", Warn, "process 7"),
        (|f| f.leftovers = Ok(Leftovers { drift: vec!["gone".into()], ..Leftovers::default() }), "policy", Warn, "gone"),
        (|f| f.leftovers = Ok(Leftovers { generation: Some(3), ..Leftovers::default() }), "policy", Fine, "generation 3"),
        (|f| f.leftovers = Ok(Leftovers { generations: vec!["gen-4".into()], ..Leftovers::default() }), "leftovers", Warn, "gen-4"),
        (|f| f.leftovers = Ok(Leftovers { gone: vec!["/b/4".into()], gone_for_sure: true, ..Leftovers::default() }), "leftovers", Warn, "/b/4 is of a network namespace that nobody"),
        (|f| f.leftovers = Ok(Leftovers { gone: vec!["/b/4".into()], ..Leftovers::default() }), "leftovers", Unknown, "which can be seen"),
        (|f| f.mptcp = Ok(Some(false)), "mptcp", Warn, "enabled is 0"),
        (|f| f.mptcp = Ok(None), "mptcp", Warn, "no Multipath TCP"),
        (|f| f.path_manager = Ok("userspace".into()), "path-manager", Warn, "userspace"),
        (|f| f.limits = Ok(MptcpLimits { subflows: 0, add_addr_accepted: 0 }), "path-manager", Warn, "no subflow"),
        (|f| f.limits = Ok(MptcpLimits { subflows: 1, add_addr_accepted: 0 }), "path-manager", Fine, "1 subflows"),
        (|f| f.limits = Err("why".into()), "path-manager", Unknown, "why"),
        (|f| f.tcx = Ok(false), "tc", Warn, "should have TCX"),
        (|f| f.tcx = Err("why".into()), "tc", Unknown, "why"),
        (|f| f.ports = Err("why".into()), "xdp", Unknown, "why"),
        (|f| eth1(f).xdp = Ok(0), "xdp", Fine, "generic only: eth1"),
        (|f| { eth1(f).interface.mtu = 9000; eth1(f).xdp = Ok(3) }, "xdp", Warn, "no native XDP at this MTU: eth1"),
        (|f| eth1(f).interface.mtu = 9000, "xdp", Fine, "native: eth0, eth1"),
        (|f| eth1(f).interface.kind = Some("veth".into()), "xdp", Fine, "may be incomplete: eth1 (veth)"),
        (|f| { eth1(f).interface.kind = Some("veth".into()); eth1(f).peer_completes_checksums = Ok(true) }, "xdp", Fine, "are complete: eth1 (veth)"),
        (|f| eth1(f).qdiscs = vec!["fq_codel".into()], "qdisc", Fine, "does not pace: eth1"),
        (|f| eth1(f).qdiscs = ["mq", "fq", "pfifo_fast"].map(Into::into).into(), "qdisc", Fine, "does not pace: eth1"),
        (|f| eth1(f).qdiscs = ["mq", "clsact"].map(Into::into).into(), "qdisc", Fine, "does not pace: eth1"),
        (|f| eth1(f).rp_filter = Ok(1), "rp-filter", Warn, "strict at eth1"),
        (|f| eth1(f).rp_filter = Err("why".into()), "rp-filter", Unknown, "why"),
        (|f| { eth1(f).rp_filter = Ok(1); eth1(f).ipv4 = false }, "rp-filter", Fine, "one interface"),
    ];
    for (number, (wrong, check, verdict, words)) in rows.iter().enumerate() {
        let mut facts = able();
        wrong(&mut facts);
        let findings = judge(&facts);
        let says = |f: &&Finding| f.check == *check && f.found.contains(words);
        let found = findings.iter().find(says);
        let found = found.unwrap_or_else(|| panic!("row {number}: {words}: {findings:?}"));
        assert_eq!(found.verdict, *verdict, "row {number}: {found:?}");
        // What is wrong has a meaning and a cure.
        if matches!(verdict, Fail | Warn) && *words != "aarch64" {
            assert!(
                found.means.is_some() && found.cure.is_some(),
                "row {number}: {found:?}"
            );
        }
        assert_eq!(is_able(&findings), *verdict != Fail, "row {number}");
        for other in findings.iter().filter(|f| f.check != *check) {
            assert!(matches!(other.verdict, Fine), "row {number}: {other:?}");
        }
    }
}

#[test]
fn what_is_in_the_way_of_packets_that_leave() {
    const TOLD: KernelVersion = KernelVersion(6, 3);
    let port = able().ports.unwrap().remove(1);
    let found = |kernel, rp_filter: Known<u32>, xdp: Option<Known<u64>>| {
        let leaving = Leaving {
            interface: port.interface.clone(),
            rp_filter,
            xdp,
        };
        let findings = network::leaving_by(&leaving, kernel);
        assert!(
            findings
                .iter()
                .all(|f| f.means.is_some() && f.cure.is_some())
        );
        findings.into_iter().map(|f| f.found).collect::<Vec<_>>()
    };
    let strict = ["rp_filter is strict at eth1"];
    let takes_none = ["eth1 takes no packets from XDP"];
    let unknown = || Err(String::new());
    for (rp_filter, wanted) in [
        (Ok(0), &[][..]),
        (Ok(1), &strict),
        (Ok(2), &[]),
        (unknown(), &[]),
    ] {
        assert_eq!(found(TOLD, rp_filter, None), wanted);
    }
    for (xdp, wanted) in [
        (Ok(0x7), &[][..]),
        (Ok(0x3), &takes_none),
        (Err(String::new()), &[]),
    ] {
        assert_eq!(found(TOLD, Ok(0), Some(xdp)), wanted);
    }
    // Before, it is not told.
    assert!(found(KernelVersion(6, 2), Ok(0), Some(Ok(0))).is_empty());
}

fn eth1(facts: &mut Facts) -> &mut Port {
    &mut facts.ports.as_mut().unwrap()[1]
}

/// What depends on the kernel's version.
#[test]
fn older_kernels() {
    let memlock = |release: &str, bytes, capabilities| {
        let facts = Facts {
            release: release.to_owned(),
            memlock: Ok(bytes),
            capabilities: Ok(capabilities),
            ..able()
        };
        let findings = judge(&facts);
        findings
            .iter()
            .find(|f| f.check == "memlock")
            .map(|f| f.verdict)
    };
    let three = CAP_BPF | CAP_NET_ADMIN | CAP_PERFMON;
    assert_eq!(memlock("5.10.0", Some(65536), three), Some(Verdict::Warn));
    assert_eq!(memlock("5.10.0", Some(65536), ROOT), Some(Verdict::Ok));
    assert_eq!(memlock("5.10.0", None, three), Some(Verdict::Ok));
    assert_eq!(memlock("5.11.0", Some(65536), three), None);

    let old = Facts {
        release: "6.1.0".to_owned(),
        tcx: Ok(false),
        ..able()
    };
    let findings = judge(&old);
    let verdict = |check| {
        findings
            .iter()
            .find(|f| f.check == check)
            .map(|f| f.verdict)
    };
    assert_eq!(verdict("tc"), Some(Verdict::Ok));
    assert_eq!(verdict("xdp"), Some(Verdict::Unknown));

    let kernel = |release: &str| {
        let release = release.to_owned();
        judge(&Facts { release, ..able() })[0].verdict
    };
    assert_eq!(kernel("5.4.0"), Verdict::Fail);
    assert_eq!(kernel("5.10.0"), Verdict::Ok);
    assert_eq!(kernel("mine"), Verdict::Unknown);

    // Where no BPF file system is, one is mounted by those who may.
    let mut facts = able();
    facts.bpffs = Ok(Ok(("/b".into(), false)));
    facts.capabilities = Ok(three);
    assert!(!is_able(&judge(&facts)));
}

#[test]
fn long_lists_are_cut() {
    let mut facts = able();
    facts.ports = Ok((0..9).map(|n| port(&format!("e{n}"))).collect());
    let found: Vec<_> = judge(&facts)
        .into_iter()
        .filter(|f| f.check == "xdp")
        .collect();
    assert_eq!(found[0].found, "native: e0, e1, e2, e3, e4, e5 and 3 more");
}
