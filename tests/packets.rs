//! The builder of packets, the fixtures and the captures, compared with what
//! tshark finds in the same bytes.

use std::path::Path;

use emptcp_test::Framing;
use emptcp_test::captures;
use emptcp_test::csum;
use emptcp_test::fixtures;
use emptcp_test::fixtures::Case;
use emptcp_test::fixtures::Entry;
use emptcp_test::fixtures::Outcome;
use emptcp_test::hosts::Family;
use emptcp_test::model;
use emptcp_test::options::*;
use emptcp_test::packet::*;
use emptcp_test::pcap;
use emptcp_test::tshark;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn dss(ack: u32) -> Opt {
    Opt::Dss(Dss {
        ack: Some(ack),
        ..Dss::default()
    })
}

type OptionRow = (Opt, u8, u8, Vec<(&'static str, &'static str)>);

/// Every option with what tshark has to say of it: subtype, length, fields.
/// (tshark 4.0 does not show the checksum of a DSS: see `captured_packets_can_be_built`.)
fn options() -> Vec<OptionRow> {
    let capable = |sender_key, receiver_key, data_len, checksum: Option<u16>| {
        let flags = if checksum.is_some() { 0x81 } else { 1 };
        Opt::MpCapable(MpCapable {
            version: 1,
            flags,
            sender_key,
            receiver_key,
            data_len,
            checksum,
        })
    };
    let add_addr = |version, echo, addr: &str, port| {
        Opt::AddAddr(AddAddr {
            version,
            echo,
            id: 7,
            addr: addr.into(),
            port,
            hmac: 99,
        })
    };
    vec![
        (
            capable(None, None, None, None),
            0,
            4,
            vec![("version", "1"), ("flags", "0x01")],
        ),
        (
            capable(Some(5), None, None, None),
            0,
            12,
            vec![("sendkey", "5")],
        ),
        (
            capable(Some(5), Some(6), None, None),
            0,
            20,
            vec![("sendkey", "5"), ("recvkey", "6")],
        ),
        (
            capable(Some(5), Some(6), Some(9), None),
            0,
            22,
            vec![("datalvllen", "9")],
        ),
        (
            capable(Some(5), Some(6), Some(9), Some(0x1234)),
            0,
            24,
            vec![
                ("datalvllen", "9"),
                ("checksumreq.flags", "1"),
                ("checksum", "0x1234"),
            ],
        ),
        (
            Opt::MpCapable(MpCapable {
                version: 0,
                sender_key: Some(u64::MAX),
                ..MpCapable::default()
            }),
            0,
            12,
            vec![("version", "0"), ("sendkey", "18446744073709551615")],
        ),
        (
            Opt::MpJoinSyn(MpJoinSyn {
                backup: true,
                id: 3,
                token: 4,
                nonce: 5,
            }),
            1,
            12,
            vec![
                ("backup.flag", "1"),
                ("addrid", "3"),
                ("recvtok", "4"),
                ("sendrand", "5"),
            ],
        ),
        (
            Opt::MpJoinSynack(MpJoinSynack {
                backup: false,
                id: 3,
                hmac: 4,
                nonce: 5,
            }),
            1,
            16,
            vec![
                ("backup.flag", "0"),
                ("addrid", "3"),
                ("sendtrunchmac", "4"),
                ("sendrand", "5"),
            ],
        ),
        (
            Opt::MpJoinAck((0..20).collect()),
            1,
            24,
            vec![(
                "sendhmac",
                "00:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10:11:12:13",
            )],
        ),
        (dss(1), 2, 8, vec![("flags", "0x01"), ("rawdataack", "1")]),
        (
            Opt::Dss(Dss {
                ack64: Some(1 << 40),
                ..Dss::default()
            }),
            2,
            12,
            vec![("flags", "0x03"), ("rawdataack", "1099511627776")],
        ),
        (
            Opt::Dss(Dss {
                dsn: Some(2),
                ssn: 3,
                len: 4,
                ..Dss::default()
            }),
            2,
            14,
            vec![
                ("rawdataseqno", "2"),
                ("subflowseqno", "3"),
                ("datalvllen", "4"),
            ],
        ),
        (
            Opt::Dss(Dss {
                fin: true,
                ack: Some(1),
                dsn: Some(2),
                ssn: 3,
                len: 4,
                checksum: Some(5),
                ..Dss::default()
            }),
            2,
            20,
            vec![
                ("flags", "0x15"),
                ("rawdataack", "1"),
                ("rawdataseqno", "2"),
            ],
        ),
        (
            Opt::Dss(Dss {
                ack64: Some(1),
                dsn64: Some(2),
                ssn: 3,
                len: 4,
                checksum: Some(5),
                ..Dss::default()
            }),
            2,
            28,
            vec![
                ("flags", "0x0f"),
                ("rawdataack", "1"),
                ("rawdataseqno", "2"),
            ],
        ),
        (
            add_addr(0, false, "10.9.8.7", None),
            3,
            8,
            vec![("addrid", "7"), ("ipv4", "10.9.8.7")],
        ),
        (
            add_addr(0, false, "10.9.8.7", Some(81)),
            3,
            10,
            vec![("ipv4", "10.9.8.7"), ("port", "81")],
        ),
        (
            add_addr(0, false, "fd00::1", None),
            3,
            20,
            vec![("ipv6", "fd00::1")],
        ),
        (
            add_addr(1, false, "10.9.8.7", None),
            3,
            16,
            vec![
                ("echo", "0"),
                ("ipv4", "10.9.8.7"),
                ("addaddrtrunchmac", "99"),
            ],
        ),
        (
            add_addr(1, false, "10.9.8.7", Some(81)),
            3,
            18,
            vec![("port", "81"), ("addaddrtrunchmac", "99")],
        ),
        (
            add_addr(1, false, "fd00::1", None),
            3,
            28,
            vec![("ipv6", "fd00::1"), ("addaddrtrunchmac", "99")],
        ),
        (
            add_addr(1, false, "fd00::1", Some(81)),
            3,
            30,
            vec![("port", "81"), ("addaddrtrunchmac", "99")],
        ),
        (
            add_addr(1, true, "10.9.8.7", None),
            3,
            8,
            vec![("echo", "1"), ("ipv4", "10.9.8.7")],
        ),
        (
            add_addr(1, true, "fd00::1", Some(81)),
            3,
            22,
            vec![("echo", "1"), ("port", "81")],
        ),
        (
            Opt::RemoveAddr(vec![1, 2, 3]),
            4,
            6,
            vec![("addrid", "1,2,3")],
        ),
        (
            Opt::MpPrio(MpPrio {
                backup: true,
                id: None,
            }),
            5,
            3,
            vec![("backup.flag", "1")],
        ),
        (
            Opt::MpPrio(MpPrio {
                backup: false,
                id: Some(8),
            }),
            5,
            4,
            vec![("backup.flag", "0"), ("addrid", "8")],
        ),
        (Opt::MpFail(77), 6, 12, vec![("rawdataseqno", "77")]),
        (Opt::MpFastclose(78), 7, 12, vec![("recvkey", "78")]),
        (
            Opt::MpTcprst(MpTcprst {
                flags: 1,
                reason: 3,
            }),
            8,
            4,
            vec![("flag_T.flag", "1"), ("rst_reason", "0x03")],
        ),
        (
            Opt::MpExperimental(MpExperimental {
                flags: 8,
                data: vec![1, 2, 3],
            }),
            15,
            6,
            vec![],
        ),
    ]
}

fn decode(built: &[Built]) -> Vec<tshark::Decoded> {
    let frames = built.iter().map(|b| (b.framing, b.bytes.as_slice()));
    tshark::decode(frames).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn options_are_what_tshark_finds() {
    let table = options();
    let packet = |option: &Opt| {
        Packet::new()
            .tcp(Tcp::default().opt(option.clone()))
            .payload(9)
    };
    let built: Vec<Built> = table
        .iter()
        .map(|(o, ..)| packet(o).build(Family::Ip4).unwrap())
        .collect();
    for ((option, subtype, len, fields), found) in table.iter().zip(decode(&built)) {
        assert_eq!(found.mptcp.len(), 1, "{option:?}: {found:?}");
        let mptcp = &found.mptcp[0];
        assert_eq!(
            (mptcp.subtype.unwrap(), mptcp.len),
            (*subtype, *len),
            "{option:?}"
        );
        for (name, value) in fields {
            let found = mptcp.fields.get(*name).map(String::as_str);
            assert_eq!(found, Some(*value), "{option:?}: {name} in {mptcp:?}");
        }
        assert!(!found.malformed, "{option:?}: {found:?}");
    }
}

#[test]
fn packets_are_what_tshark_finds() {
    let ext = |ext: &[Ext]| Ip6 {
        ext: ext.to_vec(),
        ..Ip6::default()
    };
    let sized = |len| Sized {
        len: Some(len),
        len_field: None,
    };
    let routing = |kind, left| {
        Ext::Routing(Routing {
            kind,
            left,
            addrs: vec!["c".into(), "d".into()],
        })
    };
    let home = Ext::Routing(Routing {
        kind: 2,
        left: 1,
        addrs: vec!["d".into()],
    });
    let all = Tcp::new(1, 65535)
        .flags("FSRPAUEC")
        .seq(u32::MAX, 0x8000_0000)
        .window(65535)
        .opt(Opt::Mss(1460))
        .opt(Opt::Sackok)
        .opt(Opt::Timestamps(1, 2))
        .opt(Opt::Wscale(7));
    let packets = [
        Packet::new(),
        Packet::new().tcp(all.clone()),
        Packet::new().tcp(all.clone().pad(Pad::Eol)).payload(1),
        Packet::new().tcp(all.pad(Pad::Nop)).payload(&b"text"[..]),
        Packet::new().tcp(
            Tcp::default()
                .opt(Opt::Sack(vec![(1, 2), (3, 4)]))
                .opt(dss(5)),
        ),
        Packet::new().tcp(Tcp::default().opt(Opt::Md5(vec![7; 16])).opt(dss(5))),
        Packet::new()
            .tcp(
                Tcp::default()
                    .opt(dss(5))
                    .opt(Opt::MpPrio(MpPrio::default()))
                    .opt(dss(6)),
            )
            .payload(1400),
        Packet::new()
            .hosts("d", "10.255.255.255")
            .vlan(4094)
            .vlan(1)
            .payload(3),
        Packet::new().vlan(5).pad(64),
        Packet::new().pad(60),
        Packet::new().raw_ip().payload(8),
        Packet::new()
            .ip(Ip {
                options: true,
                ttl: 1,
                tos: 0xb8,
                ..Ip::default()
            })
            .payload(8),
        Packet::new()
            .ip4(Ip4 {
                options: vec![1; 40],
                df: false,
                ..Ip4::default()
            })
            .payload(5),
        Packet::new()
            .ip6(ext(&[Ext::Hop(sized(16)), Ext::Dest(sized(520))]))
            .payload(5),
        Packet::new()
            .ip6(ext(&[Ext::Fragment(Fragment::default())]))
            .payload(5),
        Packet::new()
            .ip6(ext(&[Ext::Ah(Sized::default())]))
            .payload(5),
        Packet::new().ip6(ext(&[home])).payload(5),
        Packet::new().ip6(ext(&[routing(0, 1)])).payload(5),
        Packet::new().ip6(ext(&[routing(4, 0)])).payload(5),
        Packet::new()
            .ip6(ext(&[routing(4, 1), Ext::Dest(sized(8))]))
            .payload(5),
        Packet::new()
            .ip6(ext(&vec![Ext::Dest(sized(8)); 9]))
            .payload(5),
        Packet::new().ip6(Ip6 {
            src: "fe80::1".into(),
            flow: 0xf_ffff,
            tos: 255,
            ..ext(&[])
        }),
    ];
    let cases: Vec<(&Packet, Family)> = packets
        .iter()
        .flat_map(|p| p.families().into_iter().map(move |f| (p, f)))
        .collect();
    let built: Vec<Built> = cases.iter().map(|(p, f)| p.build(*f).unwrap()).collect();
    for (((packet, family), built), found) in cases.iter().zip(&built).zip(decode(&built)) {
        assert!(packet.is_well_formed());
        let differences = found.differences(packet, *family);
        assert!(
            differences.is_empty(),
            "{packet:?} {family:?}: {differences:?}\n{found:?}"
        );
        csum::assert_checksums(&built.bytes, built.framing);
    }
}

#[test]
fn wrong_packets_are_as_wrong_as_asked_for() {
    let wrong_tcp = Packet::new()
        .tcp(Tcp::default().checksum(Checksum::Off(0x1234)))
        .payload(7);
    let wrong_ip = Packet::new().ip4(Ip4 {
        checksum: Checksum::WRONG,
        ..Ip4::default()
    });
    let later = Fragment {
        offset: 64,
        more: true,
    };
    let later = Packet::new().ip(Ip {
        fragment: Some(later),
        ..Ip::default()
    });
    let cut = Packet::new().payload(100).truncate(60);
    let doff = Packet::new().tcp(Tcp::default().doff(4));
    let broken = Tlv {
        kind: 30,
        len: 40,
        data: vec![0x20],
    };
    let broken = Packet::new().tcp(Tcp::default().opt(Opt::Option(broken)));
    let packets = [&wrong_tcp, &wrong_ip, &later, &cut, &doff, &broken];
    let built: Vec<Built> = packets
        .iter()
        .map(|p| p.build(Family::Ip4).unwrap())
        .collect();
    let found = decode(&built);

    assert_eq!(
        found[0].tcp.as_ref().unwrap().checksum,
        tshark::Checksum::Bad
    );
    let sums = csum::sums(&built[0].bytes, built[0].framing);
    assert_eq!(sums.tcp.unwrap().off(), 0x1234);
    assert!(sums.ip.unwrap().is_right());

    assert_eq!(
        found[1].ip.as_ref().unwrap().checksum,
        Some(tshark::Checksum::Bad)
    );
    assert_eq!(
        csum::sums(&built[1].bytes, built[1].framing)
            .ip
            .unwrap()
            .off(),
        0x1111
    );

    let ip = found[2].ip.as_ref().unwrap();
    assert_eq!((ip.fragment_offset, ip.more_fragments), (64, true));
    assert_eq!(found[2].tcp, None);
    let six = later.build(Family::Ip6).unwrap();
    let six = decode(std::slice::from_ref(&six)).remove(0);
    let ip = six.ip.as_ref().unwrap();
    assert_eq!(
        (ip.fragment_offset, ip.more_fragments),
        (64, true),
        "{six:?}"
    );
    assert_eq!(six.tcp, None);

    assert_eq!(built[3].bytes.len(), 60);
    let cut = found[3].tcp.as_ref().unwrap().checksum;
    assert_ne!(cut, tshark::Checksum::Good);
    assert!(!found[4].complaints.is_empty());
    assert!(
        found[5].mptcp.is_empty() || found[5].malformed,
        "{:?}",
        found[5]
    );
}

#[test]
fn layers_are_where_they_are_cut() {
    let ip = Ip {
        options: true,
        ..Ip::default()
    };
    let packet = Packet::new()
        .vlan(5)
        .vlan(6)
        .ip(ip)
        .tcp(Tcp::default().opt(dss(1)))
        .payload(2);
    let layers = packet.build(Family::Ip4).unwrap().layers;
    let want = Layers {
        vlan: 14,
        ip: 22,
        ext: 42,
        tcp: 50,
        options: 70,
        payload: 78,
    };
    assert_eq!(layers, want);
    let layers = packet.build(Family::Ip6).unwrap().layers;
    let want = Layers {
        vlan: 14,
        ip: 22,
        ext: 62,
        tcp: 78,
        options: 98,
        payload: 106,
    };
    assert_eq!(layers, want);
    let cut = Packet {
        truncate: Some(Cut::Behind(Layer::Tcp, 19)),
        ..packet
    };
    assert_eq!(cut.build(Family::Ip4).unwrap().bytes.len(), 69);
}

/// What Linux and its Multipath TCP sent, described and built anew.
#[test]
fn captured_packets_can_be_built() {
    let dir = root().join("tests/pcaps");
    let rebuild = |file: &str, number: usize, json: &str| {
        let frames = pcap::read(&dir.join(file)).unwrap();
        let packet: Packet = serde_json::from_str(json).unwrap();
        let built = packet.build(Family::Ip4).unwrap();
        assert_eq!(
            built.bytes,
            frames[number - 1].to_ethernet(),
            "{file} {number}"
        );
    };
    rebuild(
        "mptcp-v0.pcap",
        9,
        r#"{ "eth": { "dst": "f2:8c:f5:24:1b:21", "src": "16:51:53:04:3f:55" },
             "ip4": { "src": "10.1.2.2", "dst": "10.2.1.2", "ttl": 63, "id": "0x8994" },
             "tcp": { "sport": 22, "dport": 41221, "seq": 1704897135, "ack": 1863826097,
                      "flags": "SA", "window": 14280,
                      "options": [{ "mss": 1460 }, "sackok",
                                  { "timestamps": [4294943474, 4294943168] }, { "wscale": 5 },
                                  { "mp_join_synack": { "id": 1, "hmac": "0x5ab680c7884af03d",
                                                        "nonce": 866904533 } }] } }"#,
    );
    rebuild(
        "mptcp-fclose.pcap",
        6,
        r#"{ "eth": { "dst": "d6:06:3c:4a:35:7a", "src": "16:51:53:04:3f:55" },
             "ip4": { "src": "10.1.1.2", "dst": "10.2.1.2", "ttl": 63, "id": "0x3806" },
             "tcp": { "sport": 37479, "dport": 2002, "seq": 1895673171, "ack": 2868811559,
                      "flags": "PA", "window": 229,
                      "options": [{ "timestamps": [38230, 4294943148] },
                                  { "dss": { "ack": 3386645601, "dsn": 2976985014, "ssn": 1,
                                             "len": 1, "checksum": "0x9e91" } }] },
             "payload": { "text": "c" } }"#,
    );
    // Its checksum was left to the network card.
    rebuild(
        "mptcp-aa-v1.pcap",
        13,
        r#"{ "eth": { "dst": "52:54:00:0a:98:3d", "src": "52:54:00:2c:4d:96" },
             "ip4": { "src": "192.168.125.165", "dst": "192.168.125.212", "id": "0xbff9" },
             "tcp": { "sport": 55555, "dport": 52278, "seq": 3797229815, "ack": 653223736,
                      "window": 509, "checksum": "0x7d0d",
                      "options": [{ "timestamps": [938671166, 2070301967] },
                                  { "add_addr": { "addr": "192.168.136.225",
                                                  "hmac": "0x669928744366716c" } },
                                  { "dss": { "ack64": 17186763219675866581 } }] } }"#,
    );
}

fn every_entry() -> Vec<Entry> {
    let cases = fixtures::load_dir(&root().join("tests/modules")).unwrap_or_else(|e| panic!("{e}"));
    assert!(!cases.is_empty());
    cases.iter().flat_map(Case::expand).collect()
}

#[test]
fn the_example_in_the_readme_is_a_fixture() {
    let readme = include_str!("README.md");
    let (_, json) = readme.split_once("```json").unwrap();
    let (json, _) = json.split_once("```").unwrap();
    assert_eq!(fixtures::parse("README.md", json).unwrap().len(), 2);
}

/// Every run can be given to `BPF_PROG_TEST_RUN`: at least an Ethernet header,
/// and not more than a page has room for at XDP.
#[test]
fn every_fixture_can_be_run() {
    for entry in every_entry() {
        let len = entry.input.len();
        assert!((14..=3500).contains(&len), "{}: {len} bytes", entry.name);
    }
}

#[test]
fn every_fixture_is_what_it_says() {
    let entries = every_entry();
    let frames = entries.iter().map(|e| (e.framing, e.expected.as_slice()));
    let decoded = tshark::decode(frames).unwrap();
    let gave_up = decoded.iter().filter(|d| d.gave_up).count();
    assert!(
        gave_up * 50 < entries.len(),
        "tshark gave up {gave_up} times"
    );
    for (entry, found) in entries.iter().zip(&decoded) {
        let mark = match (entry.module.as_str(), &entry.outcome) {
            ("set_mark", Outcome::Match) => model::set_mark(&entry.params, entry.mark),
            _ => entry.mark,
        };
        assert_eq!(entry.expected_mark, mark, "{}", entry.name);
        let differences = found.differences(&entry.output, entry.family);
        assert!(
            differences.is_empty(),
            "{}: {differences:?}\n{found:?}",
            entry.name
        );
        if entry.output.is_well_formed() {
            csum::assert_checksums(&entry.expected, entry.framing);
        }
    }
}

/// Rows on which emptcp and tshark differ on purpose: limits of the parser of
/// emptcp, and packets with which tshark is stricter.
const NOT_AS_TSHARK: [&str; 5] = [
    "three tags",
    "nine extension headers",
    "payload length of zero",
    "payload length of zero stands for a long packet",
    "behind one that is too short to be one",
];

/// Reasons for which an actor refuses to edit.
const REFUSED: [&str; 9] = [
    "signed",
    "unsafe",
    "no_room",
    "no_value",
    "bad_csum",
    "no_wscale",
    "no_keys",
    "untracked",
    "map_full",
];

/// Actors that treat every packet of TCP.
const TREAT_ALL: [&str; 4] = ["accept", "drop", "record", "set_mark"];

#[test]
fn fixtures_expect_what_tshark_finds() {
    let entries = every_entry();
    let frames = entries.iter().map(|e| (e.framing, e.input.as_slice()));
    let decoded = tshark::decode(frames).unwrap();
    let mut differ: Vec<&str> = Vec::new();
    for (entry, found) in entries.iter().zip(&decoded) {
        let tcp = found.tcp.is_some();
        let params = model::without_table(&entry.module, &entry.params, &entry.tables);
        let model = (params.iter())
            .map(|params| model::matches(&entry.module, params, found, entry.mark))
            .reduce(|one, other| Some(one? || other?))
            .unwrap_or(Some(false));
        let agree = match (&entry.outcome, model) {
            // Not reasons of the parser.
            (Outcome::Error(reason), _) if REFUSED.contains(&reason.as_str()) => tcp,
            (Outcome::Error(_), _) => !tcp || found.malformed,
            (outcome, Some(matches)) => matches == (*outcome == Outcome::Match),
            // One that has nothing to change does not treat the packet.
            (outcome, None)
                if entry.module == "set_recv_win" && !entry.params["wscale"].is_null() =>
            {
                let changes = |tcp| model::set_recv_win(&entry.params, tcp) != tcp.window;
                found.tcp.as_ref().is_some_and(changes) == (*outcome == Outcome::Match)
            }
            // An actor treats TCP and nothing else; these all of it.
            (outcome, None) if TREAT_ALL.contains(&entry.module.as_str()) => {
                tcp == (*outcome == Outcome::Match)
            }
            (outcome, None) => tcp || *outcome != Outcome::Match,
        };
        if !agree {
            differ.push(&entry.case);
            println!("{}: {}\n{found:?}", entry.name, entry.params);
        }
    }
    let treated = entries.iter().zip(&decoded);
    for (entry, found) in treated.filter(|(e, _)| e.outcome == Outcome::Match) {
        let tcp = found.tcp.as_ref();
        let (Some(before), Some(after)) = (tcp, entry.output.tcp_header()) else {
            continue;
        };
        let window = match entry.module.as_str() {
            // What was learnt of packets before is not known to the model.
            "set_recv_win" if entry.params["wscale"].is_null() => continue,
            "set_recv_win" => model::set_recv_win(&entry.params, before),
            // A RST has none.
            "reset" | "reject_join" if entry.expected != entry.input => 0,
            _ => before.window,
        };
        assert_eq!(after.window, window, "{} {}", entry.name, entry.params);
    }
    differ.sort_unstable();
    differ.dedup();
    let mut expected = NOT_AS_TSHARK;
    expected.sort_unstable();
    assert_eq!(differ, expected);
}

#[test]
fn checksums_of_captures_are_as_tshark_finds_them() {
    let packets = captures::expected(&root().join("tests/pcaps")).unwrap();
    let (mut tcp, mut mptcp, mut good) = (0, 0, 0);
    for packet in &packets {
        let sums = csum::sums(&packet.bytes, Framing::Ethernet);
        let Some(found) = &packet.facts.tcp else {
            assert_eq!(sums.tcp, None, "{}", packet.name);
            continue;
        };
        tcp += 1;
        mptcp += usize::from(!packet.facts.mptcp.is_empty());
        let right = sums.tcp.unwrap().is_right();
        good += usize::from(right);
        assert_eq!(
            right,
            found.checksum == tshark::Checksum::Good,
            "{}",
            packet.name
        );
        assert!(sums.ip.unwrap().is_right(), "{}", packet.name);
        for check in packet.checks() {
            let model = model::matches(check.module, &check.params, &packet.facts, 0);
            assert_eq!(model, Some(check.matches), "{} {check:?}", packet.name);
        }
    }
    assert_eq!((packets.len(), tcp), (324, 320));
    println!("{mptcp} with options of Multipath TCP, {good} with a right TCP checksum");
    // A DSS of three bytes is an option of Multipath TCP all the same.
    let oobr = packets
        .iter()
        .find(|p| p.name.starts_with("mptcp-dss-oobr"))
        .unwrap();
    assert!(oobr.facts.malformed);
    assert!(
        oobr.checks()
            .iter()
            .any(|c| c.module == "mptcp" && c.matches)
    );
}

#[test]
fn errors_name_file_case_and_field() {
    let error = |text: &str| fixtures::parse("x.json", text).unwrap_err();
    let case = |rest: &str| {
        let text = format!(r#"{{ "module": "m", "cases": [{{ "name": "n", {rest} }}] }}"#);
        error(&text)
    };
    let expect = r#""expect": { "match": true }"#;
    let table = [
        (
            format!(r#""in": {{ "tcp": {{ "windwo": 1 }} }}, {expect}"#),
            "in.tcp.windwo: unknown",
        ),
        (
            format!(r#""in": {{ "tcp": {{ "flags": "X" }} }}, {expect}"#),
            "in.tcp.flags: expected",
        ),
        (
            format!(r#""in": {{ "tcp": {{ "options": ["no"] }} }}, {expect}"#),
            "options[0]",
        ),
        (
            format!(r#""in": {{ "tcp": {{ "seq": 4294967296 }} }}, {expect}"#),
            "in.tcp.seq: expected",
        ),
        (
            format!(r#""in": {{ "truncate": "tcp-1" }}, {expect}"#),
            "in.truncate: expected",
        ),
        (
            format!(r#""in": {{ "truncate": 5000 }}, {expect}"#),
            "in: truncate: 5000 bytes of",
        ),
        (
            format!(r#""in": {{ "ip4": {{ "src": "x" }} }}, {expect}"#),
            "in: expected a host",
        ),
        (
            format!(r#""params": {{ "in": ["$q"] }}, {expect}"#),
            "params: expected a host",
        ),
        (
            format!(r#""hooks": ["tc"], {expect}"#),
            "hooks: expected one of",
        ),
        (
            format!(r#""families": ["ip5"], {expect}"#),
            "families: the packet does not exist",
        ),
        (
            format!(r#""name": "n", {expect}"#),
            "key \"name\" stands twice",
        ),
        (
            r#""expect": { "match": "no" }"#.into(),
            "expect.match: expected true, false",
        ),
        (
            r#""expect": { "out": { "tcp": { "window": 512 } } }"#.into(),
            "changes nothing",
        ),
        (r#""in": {}"#.into(), "missing field `expect`"),
    ];
    for (rest, message) in table {
        let found = case(&rest);
        assert!(found.starts_with("x.json: "), "{found}");
        assert!(
            found.contains(message),
            "{found:?} should contain {message:?}"
        );
        assert!(
            found.contains("case 0 (n): ") || found.contains("twice"),
            "{found}"
        );
    }
    assert!(error(r#"{ "module": "m", "cases": [] }"#).contains("no cases"));
    assert!(error(r#"{ "module": "m" "#).contains("line 1"));
}
