// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Frames on a host between the ends: a router, one with a single interface, a VLAN.

use super::*;

/// Neither end is here: what comes in by one interface leaves by another.
fn forwarded(places: &[&str], by: [&str; 2]) {
    let rig = rig(1);
    let third = Netns::new();
    third.sh("sysctl -qw net.mptcp.enabled=1");
    crate::rig::sh(&format!(
        "ip link add r0 netns {} type veth peer name r0 netns {}",
        rig.near.name, third.name
    ));
    rig.near.sh(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 && \
         ip addr add 10.78.0.2/24 dev r0 && ip addr add fd78::2/64 dev r0 nodad && ip link set r0 up",
    );
    third.sh(
        "ip addr add 10.78.0.1/24 dev r0 && ip addr add fd78::1/64 dev r0 nodad && \
         ip link set r0 up && ip route add default via 10.78.0.2 && \
         ip -6 route add default via fd78::2",
    );
    rig.far
        .sh("ip route add 10.78.0.0/24 via 10.77.0.2 && ip -6 route add fd78::/64 via fd77:0::2");
    for address in ["10.78.0.1", "fd78::1"] {
        let policy = json!({ "version": 1, "track": places, "chains": [] });
        let path = rig.folder.write("track.json", policy.to_string());
        rig.run(&["apply", path.to_str().unwrap()]).ok();
        let connection = Connection::to(&rig.far, &third, address.parse().unwrap());
        connection.send(true, SIZE);
        connection.send(false, SIZE);
        connection.rest();
        let subflow = only(&rig);
        let received = || [&rig.far, &third].map(|end| counter(end, "MPTcpExtMPPrioRx"));
        let errors = || {
            let names = [
                "TcpInCsumErrors",
                "TcpInErrs",
                "TcpExtPAWSEstab",
                "TcpOutRsts",
            ];
            [&rig.far, &third].map(|end| names.map(|name| counter(end, name)))
        };
        let (before, none) = (received(), errors());
        for number in 1..=4 {
            let priority = ["nobackup", "backup"][number % 2];
            let sent = rig
                .run(&["--json", "set-prio", &subflow, priority])
                .ok()
                .json();
            let sent = sent.as_array().unwrap();
            let how = |to: &str| {
                let frame = sent.iter().find(|frame| frame["to"] == to).unwrap();
                (frame["by"].clone(), frame["interface"].clone())
            };
            assert_eq!(how("server"), (by[0].into(), "p0".into()));
            assert_eq!(how("client").0, by[1]);
        }
        assert_eq!(received(), before.map(|n| n + 4), "{address}");
        assert_eq!(errors(), none, "{address}");
        connection.assert_whole();
        drop(connection);
        rig.run(&["delete"]).ok();
    }
}

#[test]
fn root_frames_through_a_router() {
    forwarded(&["p0", "r0"], ["live frame", "live frame"]);
}

/// As in front of a guest, of which one interface is seen.
#[test]
fn root_frames_through_one_interface() {
    forwarded(&["p0"], ["live frame", "packet socket"]);
}

/// The tag of a VLAN stands beside packets at tc, and must be in frames.
#[test]
fn root_frames_in_a_vlan() {
    let rig = rig(1);
    for (address, ether) in [("10.77.0.2", "0800"), ("fd77:0::2", "86dd")] {
        let connection = Connection::new(&rig, address.parse().unwrap());
        connection.send(true, 4096);
        connection.send(false, 4096);
        // From here on the server gets none of its packets.
        let ifindex = rig.near.ifindex("p0");
        let tagged = rig.near.within(|| raw::vlan_at_ingress(ifindex, 5));
        track(&rig, &json!([]));
        (&connection.client).write_all(&[7; 100]).unwrap();
        let mut frame = String::new();
        wait_for("a packet", LIMIT, || {
            let subflow = only(&rig);
            let args = [
                "--json",
                "set-prio",
                &subflow,
                "backup",
                "--to",
                "server",
                "--dry-run",
            ];
            let looked = rig.run(&args);
            if looked.code == Some(0) {
                frame = looked.json()[0]["frame"].as_str().unwrap().to_owned();
            }
            !frame.is_empty()
        });
        let expected = format!("02000000000202000000000181000005{ether}");
        assert!(frame.starts_with(&expected), "{frame}");
        drop(tagged);
        let mut got = [0; 100];
        (&connection.server).read_exact(&mut got).unwrap();
        // Its own frames are without.
        connection.assert_whole();
        drop(connection);
        rig.run(&["delete"]).ok();
    }
}
