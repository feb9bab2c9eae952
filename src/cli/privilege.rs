//! Which privilege is missing.

use std::fs;
use std::io;

use crate::datapath::verifier_log;

const CAP_SYS_ADMIN: u32 = 21;
/// What `apply` needs, by their numbers in the kernel.
const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_NET_ADMIN", 12)];

/// What to do about an error that a privilege is missing for.
pub(super) fn cure(error: &anyhow::Error) -> Option<String> {
    let denied = error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let bpf = cause
            .downcast_ref::<libbpf_rs::Error>()
            .map(libbpf_rs::Error::kind);
        io == Some(io::ErrorKind::PermissionDenied)
            || bpf == Some(libbpf_rs::ErrorKind::PermissionDenied)
    });
    // Without CAP_PERFMON the verifier is stricter.
    let refused = verifier_log(error).is_some();
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let missing = missing(&status)?;
    match missing.as_slice() {
        [] if denied => Some(
            "the capabilities are there; do the pins belong to another user, or is this a user \
             namespace, where they do not count? see docs/install.md"
                .to_owned(),
        ),
        missing if !missing.is_empty() && (denied || refused) => Some(format!(
            "this process lacks {}: run it as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
            missing.join(" and ")
        )),
        _ => None,
    }
}

/// What is not among the effective capabilities of /proc/PID/status.
fn missing(status: &str) -> Option<Vec<&'static str>> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(line.trim(), 16).ok()?;
    let has = |number: u32| effective >> number & 1 == 1;
    // The kernel takes CAP_SYS_ADMIN for CAP_BPF and CAP_PERFMON, from which these were split off.
    let covered = |name: &str| name != "CAP_NET_ADMIN" && has(CAP_SYS_ADMIN);
    let missing = NEEDED
        .iter()
        .filter(|(name, number)| !has(*number) && !covered(name));
    Some(missing.map(|(name, _)| *name).collect())
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn capabilities_of_a_process() {
        for (effective, expected) in [
            (
                "0000000000000000",
                &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"][..],
            ),
            ("000001ffffffffff", &[]),
            ("000000c000001000", &[]),
            ("0000008000001000", &["CAP_PERFMON"]),
            ("0000000000201000", &[]),
            ("0000000000200000", &["CAP_NET_ADMIN"]),
        ] {
            let status = format!("Name:\temptcp\nCapPrm:\t0\nCapEff:\t{effective}\n");
            assert_eq!(missing(&status).unwrap(), expected, "{effective}");
        }
    }
}
