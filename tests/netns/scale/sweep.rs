// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! A measurement: how long 100,000 subflows take to be looked through, and to be forgotten.

use std::time::Duration;
use std::time::Instant;

use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use serde_json::json;

use crate::rig::Rig;
use crate::rig::Tc;

const SUBFLOWS: u32 = 100_000;
/// In `struct emptcp_track_subflow`: its time.
const CREATED: usize = 0;

/// Processor time of all that this process has waited for, to 10 ms (proc(5): cutime, cstime).
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, behind_name) = stat.rsplit_once(')').unwrap();
    let fields = behind_name.split_whitespace().skip(13).take(2);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
#[ignore = "a measurement: docs/performance.md"]
fn root_bench_sweep() {
    let rig = Rig::new(1, Tc::Tcx);
    let policy = json!({ "version": 1, "track": ["p*"], "chains": [],
        "limits": { "subflows": 2 * SUBFLOWS } });
    let path = rig.folder.write("track.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let pins = rig.bpffs.path.join("emptcp/v1");
    let home = std::fs::read_dir(pins).unwrap().next().unwrap().unwrap();
    let map = MapHandle::from_pinned_path(home.path().join("state/k-subflows")).unwrap();
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    let now = Duration::from(now).as_nanos() as u64;
    for (what, created, expected) in [("none", now, 0), ("all", 1, SUBFLOWS)] {
        let mut value = vec![0; map.value_size() as usize];
        value[CREATED..CREATED + 8].copy_from_slice(&created.to_ne_bytes());
        for n in 0..SUBFLOWS {
            let mut key = vec![0; map.key_size() as usize];
            key[10..12].copy_from_slice(&[0xff; 2]);
            key[12..16].copy_from_slice(&n.to_be_bytes());
            key[26..28].copy_from_slice(&[0xff; 2]);
            key[28..32].copy_from_slice(&[0xff; 4]);
            map.update(&key, &value, MapFlags::ANY).unwrap();
        }
        let (start, before) = (Instant::now(), processor());
        let args = ["--json", "connections", "--sweep", "--idle", "1h"];
        let swept = rig.run(&args).ok().json();
        println!(
            "{what} of {SUBFLOWS} forgotten: {:?}, processor {:?}",
            start.elapsed(),
            processor() - before
        );
        assert_eq!(swept["subflows"], expected, "{swept}");
    }
}
