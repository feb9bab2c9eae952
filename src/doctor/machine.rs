//! The kernel, the privilege, the pins.

use super::Finding;
use super::facts::Facts;
use crate::module::KernelVersion;

/// The oldest kernel that the tests boot.
const OLDEST: KernelVersion = KernelVersion(5, 10);
/// From here on maps and programs do not count as locked memory.
const NO_MEMLOCK: KernelVersion = KernelVersion(5, 11);
/// From here on there are CAP_BPF and CAP_PERFMON.
const SPLIT_CAPABILITIES: KernelVersion = KernelVersion(5, 8);

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

pub(super) fn kernel(facts: &Facts) -> Vec<Finding> {
    let found = format!("Linux {}, {}", facts.release, facts.machine);
    let finding = match facts.kernel() {
        None => Finding::unknown(format!("{found}: no version can be read from that")),
        Some(version) if version < OLDEST => Finding::fail(found)
            .means(format!("emptcp needs Linux {OLDEST}"))
            .cure("(install a newer kernel)"),
        Some(_) if facts.machine != "x86_64" => {
            Finding::warn(found).means("emptcp is tested on x86_64 only")
        }
        Some(_) => Finding::ok(found),
    };
    vec![finding]
}

pub(super) fn modules(facts: &Facts) -> Vec<Finding> {
    let Some(kernel) = facts.kernel() else {
        return Vec::new();
    };
    let too_new: Vec<String> = facts
        .modules
        .iter()
        .filter(|(_, since)| *since > kernel)
        .map(|(name, since)| format!("{name} needs Linux {since}"))
        .collect();
    vec![if too_new.is_empty() {
        Finding::ok(format!(
            "the kernel has what all {} modules need",
            facts.modules.len()
        ))
    } else {
        Finding::warn(too_new.join(", "))
            .means("policies that use them are refused by name")
            .cure("(install a newer kernel, or do without)")
    }]
}

pub(super) fn user_namespace(facts: &Facts) -> Vec<Finding> {
    vec![match &facts.first_user_namespace {
        Err(why) => Finding::unknown(why),
        Ok(true) => Finding::ok("the first one"),
        Ok(false) => {
            Finding::fail("this is a user namespace of its own, as of a rootless container")
                .means("the kernel takes no BPF programs from here, whatever the capabilities")
                .cure(
                    "(run emptcp outside, for the network namespace: nsenter --net=FILE emptcp …)",
                )
        }
    }]
}

pub(super) fn capabilities(facts: &Facts) -> Vec<Finding> {
    if let Err(why) = &facts.capabilities {
        return vec![Finding::unknown(why)];
    }
    let wanted: &[(u32, &str)] = match facts.kernel() {
        Some(kernel) if kernel < SPLIT_CAPABILITIES => &[
            (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
            (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
        ],
        _ => &[
            (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
            (CAP_BPF, "CAP_BPF"),
            (CAP_PERFMON, "CAP_PERFMON"),
        ],
    };
    // CAP_SYS_ADMIN stands for the two that were split from it.
    let stands_in = |capability| capability != CAP_NET_ADMIN && facts.may(CAP_SYS_ADMIN);
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(capability, _)| !facts.may(*capability) && !stands_in(*capability))
        .map(|(_, name)| *name)
        .collect();
    vec![if missing.is_empty() {
        let names: Vec<&str> = wanted.iter().map(|(_, name)| *name).collect();
        Finding::ok(names.join(", "))
    } else {
        Finding::fail(format!("this process lacks {}", missing.join(", ")))
            .means("only check, modules and doctor work without")
            .cure("sudo emptcp doctor")
    }]
}

pub(super) fn bpf(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut missing = Vec::new();
    for (name, supported) in &facts.bpf {
        match supported {
            Ok(true) => {}
            Ok(false) => missing.push(*name),
            Err(why) => {
                findings.push(Finding::unknown(why));
                break;
            }
        }
    }
    if !missing.is_empty() {
        findings.push(
            Finding::fail(format!("the kernel takes no {}", missing.join(", ")))
                .means("it was built without, or something like lockdown or seccomp forbids it")
                .cure("(CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_ACT; in a container its profile of seccomp)"),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "the kernel takes the programs and maps of emptcp",
        ));
    }
    findings
}

pub(super) fn memlock(facts: &Facts) -> Vec<Finding> {
    if facts.kernel().is_none_or(|kernel| kernel >= NO_MEMLOCK) {
        return Vec::new();
    }
    vec![match &facts.memlock {
        Err(why) => Finding::unknown(why),
        Ok(None) => Finding::ok("no limit"),
        Ok(Some(_)) if facts.may(CAP_SYS_RESOURCE) => Finding::ok("limited, but we may raise it"),
        Ok(Some(bytes)) => Finding::warn(format!("at most {bytes} bytes of locked memory"))
            .means(format!(
                "before Linux {NO_MEMLOCK} programs and maps count: larger policies are refused"
            ))
            .cure("ulimit -l unlimited"),
    }]
}

pub(super) fn jit(facts: &Facts) -> Vec<Finding> {
    vec![match &facts.jit {
        Err(why) => Finding::unknown(why),
        Ok(0) => Finding::warn("programs are interpreted")
            .means("every step costs many times as much; modules with functions of their own are refused")
            .cure("sysctl -w net.core.bpf_jit_enable=1"),
        Ok(2) => Finding::warn("programs are compiled, and dumped to the kernel's log")
            .means("each apply writes its machine code there")
            .cure("sysctl -w net.core.bpf_jit_enable=1"),
        Ok(_) => Finding::ok("programs are compiled"),
    }]
}

pub(super) fn jit_harden(facts: &Facts) -> Vec<Finding> {
    vec![match &facts.jit_harden {
        Err(why) => Finding::unknown(why),
        Ok(0 | 1) => Finding::ok("not for privileged programs"),
        Ok(_) => Finding::warn("constants are blinded in all programs")
            .means("steps lead to each other by indirect jumps: right, but slower")
            .cure("sysctl -w net.core.bpf_jit_harden=1"),
    }]
}

pub(super) fn btf(facts: &Facts) -> Vec<Finding> {
    vec![if facts.btf {
        Finding::ok("the kernel describes its types")
    } else {
        Finding::warn("there is no /sys/kernel/btf/vmlinux")
            .means("built-in modules need none; modules of your own that read structures of the kernel do")
            .cure("(a kernel with CONFIG_DEBUG_INFO_BTF)")
    }]
}

pub(super) fn bpffs(facts: &Facts) -> Vec<Finding> {
    vec![match &facts.bpffs {
        Err(why) => Finding::unknown(why),
        Ok(Err(why)) => Finding::fail("there is no BPF file system for the pins")
            .means(why)
            .cure("mount -t bpf bpf /sys/fs/bpf"),
        Ok(Ok((path, true))) => Finding::ok(format!("mounted at {}", path.display())),
        Ok(Ok((path, false))) => {
            let found = format!("none is mounted at {}", path.display());
            let cure = "mount -t bpf bpf /sys/fs/bpf";
            if facts.may(CAP_SYS_ADMIN) {
                Finding::ok(found).means("apply mounts it")
            } else {
                Finding::fail(found)
                    .means("a policy has no place to live, and this process may not mount one")
                    .cure(cure)
            }
        }
    }]
}

pub(super) fn policy(facts: &Facts) -> Vec<Finding> {
    let leftovers = match &facts.leftovers {
        Ok(leftovers) => leftovers,
        // Said already.
        Err(_) if facts.bpffs.as_ref().is_ok_and(Result::is_err) => return Vec::new(),
        Err(why) => return vec![Finding::unknown(why)],
    };
    if let Some(process) = &leftovers.locked_by {
        return vec![
            Finding::warn(format!("process {process} is changing the policy"))
                .means("other changes wait for it; if it hangs, ending it leaves the policy before or after")
                .cure(format!("ps -p {process} -o pid,stat,etime,args")),
        ];
    }
    if leftovers.drift.is_empty() {
        return vec![Finding::ok(match leftovers.generation {
            Some(generation) => format!("generation {generation} is in force as it was applied"),
            None => "none is in force in this network namespace".to_owned(),
        })];
    }
    let finding = |drift: &String| {
        Finding::warn(drift)
            .means(
                "somebody has removed or replaced a part of the policy: it is not treated as told",
            )
            .cure("emptcp show --json | emptcp apply -")
    };
    leftovers.drift.iter().map(finding).collect()
}

pub(super) fn leftovers(facts: &Facts) -> Vec<Finding> {
    let Ok(leftovers) = &facts.leftovers else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if !leftovers.generations.is_empty() {
        findings.push(
            Finding::warn(format!("an apply was killed: {}", leftovers.generations.join(", ")))
                .means("its programs take memory, and treat no packet; the next apply or delete removes them")
                .cure("emptcp show --json | emptcp apply -"),
        );
    }
    for path in &leftovers.gone {
        let path = path.display();
        let finding = if leftovers.gone_for_sure {
            Finding::warn(format!("{path} is of a network namespace that nobody has"))
        } else {
            Finding::unknown(format!(
                "{path} is of a network namespace that no process has which can be seen"
            ))
        };
        findings.push(
            finding
                .means("if the namespace is gone, its programs take memory, and treat no packet")
                .cure(format!("rm -r {path}")),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok("nothing is left of policies that are gone"));
    }
    findings
}
