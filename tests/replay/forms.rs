//! Link types, and forms of files.

use super::*;

/// The packets of the largest capture, from IP on, and behind a header of each link type.
fn by_link() -> Vec<(u32, usize, Vec<Vec<u8>>)> {
    let frames: Vec<Vec<u8>> = captured("mptcp-v0.pcap")
        .into_iter()
        .map(|p| p.bytes)
        .collect();
    let with = |header: &dyn Fn(&[u8]) -> Vec<u8>| -> Vec<Vec<u8>> {
        let frames = frames.iter();
        frames
            .map(|f| [header(f), f[14..].to_vec()].concat())
            .collect()
    };
    let sll = |f: &[u8]| [&[0, 0, 0, 1, 0, 6], &f[6..12], &[0, 0], &f[12..14]].concat();
    let sll2 = |f: &[u8]| {
        [
            &f[12..14],
            &[0, 0, 0, 0, 0, 9, 0, 1, 0, 6],
            &f[6..12],
            &[0, 0],
        ]
        .concat()
    };
    vec![
        (ETHERNET, 14, frames.clone()),
        (SLL, 16, with(&sll)),
        (SLL2, 20, with(&sll2)),
        (RAW, 0, with(&|_| Vec::new())),
    ]
}

/// Edits and drops are the same behind each link header, which stays as it was.
#[test]
fn root_every_link_type() {
    for hook in ["xdp", "tc-ingress", "tc-egress"] {
        let folder = Folder::new();
        let policy = folder.policy(&json!([
            { "name": "hops", "hook": hook, "interfaces": ["eth0"], "priority": 1,
              "act": [{ "set_field": { "ttl": 7 } }] },
            { "name": "no-more", "hook": hook, "interfaces": ["eth1"], "priority": 2,
              "select": { "packet_type": { "any": ["mp_join"] } }, "act": [{ "drop": {} }] } ]));
        let dropped: Vec<bool> = captured("mptcp-v0.pcap")
            .iter()
            .map(|p| model::matches("packet_type", &json!({ "any": ["mp_join"] }), &p.facts, 0))
            .map(Option::unwrap)
            .collect();
        let left = dropped.iter().filter(|d| !**d).count();
        assert!(left < dropped.len() && left > 0);
        for (link, header, frames) in by_link() {
            let frames_at = frames
                .iter()
                .zip(1u64..)
                .map(|(f, n)| (n * 1_000_003, &f[..]));
            let capture = folder.write("in.pcap", pcap(link, frames_at));
            let out = folder.0.join("out.pcap");
            let more = ["--json", "-o", out.to_str().unwrap()];
            let sums = replay(&policy, &capture, &more).json();
            assert_eq!(
                sums["sums"]["dropped"],
                frames.len() - left,
                "{link} at {hook}"
            );
            assert_eq!(sums["sums"]["edited"], left, "{link} at {hook}");
            let (format, came_out) = packets(&out);
            assert_eq!(format, Format::Pcap { nanoseconds: false });
            assert_eq!(came_out.len(), left);
            let stay = frames
                .iter()
                .zip(1u64..)
                .zip(&dropped)
                .filter(|(_, d)| !**d);
            for (((frame, number), _), (time, packet)) in stay.zip(&came_out) {
                assert_eq!(*time, number * 1_000_003_000);
                let mut expected = frame.clone();
                expected[header + 8] = 7;
                // The TCP checksum does not cover it, that of the IP header is made anew.
                expected[header + 10..header + 12].copy_from_slice(&packet[header + 10..][..2]);
                assert_eq!(*packet, expected, "{link} at {hook}");
                assert_checksums(&packet[header..], Framing::RawIp);
            }
        }
    }
}

/// Captures of several link types, and the other form for what comes out.
#[test]
fn root_forms_of_captures() {
    let folder = Folder::new();
    let policy = folder.policy(&looking("tc-ingress", &[("mptcp", json!({}))]));
    let frame = captured("mptcp-v0.pcap").remove(0).bytes;
    let mixed = folder.write(
        "mixed.pcapng",
        ng::write([
            (Framing::Ethernet, &frame[..]),
            (Framing::RawIp, &frame[14..]),
        ]),
    );
    let out = folder.0.join("out.pcapng");
    let more = ["--json", "-o", out.to_str().unwrap()];
    let sums = replay(&policy, &mixed, &more).json();
    assert_eq!(sums["steps"][0]["counters"]["matched"], 2);
    assert_eq!(packets(&out), packets(&mixed));
    let pcap_out = folder.0.join("out.pcap");
    replay(&policy, &mixed, &["-o", pcap_out.to_str().unwrap()]).refused(&[".pcapng"]);
    assert!(!pcap_out.exists());

    let capture = tests_pcaps().join("mptcp-aa-v1.pcap");
    replay(&policy, &capture, &["-o", out.to_str().unwrap()]).ok();
    let (format, as_pcapng) = packets(&out);
    assert_eq!((format, &as_pcapng), (Format::Pcapng, &packets(&capture).1));
    replay(&policy, &out, &["-o", pcap_out.to_str().unwrap()]).ok();
    assert_eq!(
        packets(&pcap_out),
        (Format::Pcap { nanoseconds: true }, as_pcapng)
    );
}

/// Big-endian, with times in 1024ths of a second, 100 seconds late.
#[test]
fn times_of_pcapng() {
    let block = |kind: u32, body: &[u8]| -> Vec<u8> {
        let len = (body.len() as u32 + 12).to_be_bytes();
        [&kind.to_be_bytes()[..], &len, body, &len].concat()
    };
    let section = [
        &0x1a2b_3c4d_u32.to_be_bytes()[..],
        &[0, 1, 0, 0],
        &[0xff; 8],
    ]
    .concat();
    let resolution = [0, 9, 0, 1, 0x8a, 0, 0, 0];
    let offset = [&[0, 14, 0, 8][..], &100u64.to_be_bytes()].concat();
    let interface = [&[0, 1, 0, 0, 0, 0, 0, 0][..], &resolution, &offset, &[0; 4]].concat();
    let numbers = [0u32, 0, 1024 * 7 + 512, 4, 4]
        .map(u32::to_be_bytes)
        .concat();
    let packet = [&numbers[..], &[1, 2, 3, 4]].concat();
    let bytes = [
        block(0x0a0d_0d0a, &section),
        block(1, &interface),
        block(6, &packet),
    ];
    let folder = Folder::new();
    let path = folder.write("big.pcapng", bytes.concat());
    assert_eq!(packets(&path).1, [(107_500_000_000, vec![1, 2, 3, 4])]);
}
