//! Selectors on state: what they say of a capture with two subflows is what tshark makes of its
//! streams.

use std::collections::HashMap;

use super::*;

/// Of version 0; the second subflow begins while the first is idle.
const CAPTURE: &str = "mptcp-v0.pcap";

/// A packet as tshark sees it.
struct Row {
    /// Numbers of the TCP stream and of that of Multipath TCP.
    stream: u32,
    connection: u32,
    src: String,
    flags: u16,
    len: u64,
    /// Of the handshake, in seconds: from SYN to the third ACK.
    rtt: f64,
}

impl Row {
    fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

const FIN: u16 = 1;
const SYN: u16 = 2;
const RST: u16 = 4;
const ACK: u16 = 16;

fn rows() -> Vec<Row> {
    let fields = [
        "tcp.stream",
        "mptcp.stream",
        "ip.src",
        "tcp.flags",
        "tcp.len",
        "tcp.analysis.initial_rtt",
        "tcp.analysis.retransmission",
    ];
    let mut tshark = Command::new("tshark");
    tshark.args(["-r".as_ref(), tests_pcaps().join(CAPTURE).as_os_str()]);
    tshark.args(["-T", "fields"]);
    tshark.args(fields.iter().flat_map(|f| ["-e", f]));
    let output = tshark.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let row = |line: &str| {
        let [stream, connection, src, flags, len, rtt, again] =
            line.split('\t').collect::<Vec<_>>()[..]
        else {
            panic!("{line}");
        };
        assert_eq!(again, "", "nothing is sent again in this capture");
        Row {
            stream: stream.parse().unwrap(),
            connection: connection.parse().unwrap(),
            src: src.to_owned(),
            flags: u16::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap(),
            len: len.parse().unwrap(),
            rtt: rtt.parse().unwrap_or(0.0),
        }
    };
    text.lines().map(row).collect()
}

/// What is known of a stream so far.
#[derive(Default)]
struct Stream {
    index: usize,
    began: f64,
    synack: bool,
    /// The ACK behind it was there.
    established: bool,
    fins: usize,
}

/// What the selectors have to say of a packet.
#[derive(Default)]
struct Expected {
    /// None: its subflow is not known, or has ended with this packet.
    index: Option<usize>,
    /// None: not known.
    is_client: Option<bool>,
    /// From the client, from the server; of the connection, if its keys were seen.
    bytes: Option<[u64; 2]>,
    live: Option<usize>,
    age: Option<f64>,
    connection_age: Option<f64>,
}

/// Packet by packet. times: as replay tells them, in seconds.
fn expected(rows: &[Row], times: &[f64]) -> Vec<Expected> {
    let client = &rows[0].src;
    assert!(rows[0].has(SYN), "it begins with the SYN of the client");
    let (mut bytes, mut live) = ([0, 0], 0);
    let mut streams: HashMap<u32, Stream> = HashMap::new();
    let each = rows.iter().zip(times).map(|(row, time)| {
        let number = streams.len();
        let stream = streams.entry(row.stream).or_insert_with(|| Stream {
            index: number,
            began: *time,
            ..Stream::default()
        });
        if row.has(SYN) {
            stream.synack |= row.has(ACK);
        } else if stream.synack && !stream.established {
            stream.established = true;
            live += 1;
        }
        let is_client = row.src == *client;
        bytes[usize::from(!is_client)] += row.len;
        let ends = row.has(RST) || (stream.fins == 2 && !row.has(FIN));
        stream.fins += usize::from(row.has(FIN));
        if ends {
            live -= 1;
            return Expected::default();
        }
        // A subflow is one of the connection when its handshake is over; before that its SYN has
        // named the connection.
        let known = stream.established;
        let named = known || stream.index > 0;
        Expected {
            index: (known || stream.index == 0).then_some(stream.index),
            is_client: (known || stream.index == 0).then_some(is_client),
            bytes: named.then_some(bytes),
            live: named.then_some(live),
            age: Some(time - stream.began),
            connection_age: named.then_some(time - times[0]),
        }
    });
    each.collect()
}

/// A selector, and whether it has to match.
type Check = (&'static str, Value, Box<dyn Fn(&Expected) -> bool>);

fn check(
    module: &'static str,
    params: Value,
    matches: impl Fn(&Expected) -> bool + 'static,
) -> Check {
    (module, params, Box::new(matches))
}

#[test]
fn root_state_is_what_tshark_makes_of_the_streams() {
    let rows = rows();
    assert!(rows.iter().all(|r| r.connection == rows[0].connection));
    let (up, down) = rows
        .iter()
        .fold((0, 0), |(up, down), r| match r.src == rows[0].src {
            true => (up + r.len, down),
            false => (up, down + r.len),
        });
    let mut checks = vec![
        check("role", json!({ "is": "client" }), |e| {
            e.is_client == Some(true)
        }),
        check("role", json!({ "is": "server" }), |e| {
            e.is_client == Some(false)
        }),
        check("subflow_kind", json!({ "is": "initial" }), |e| {
            e.age.is_some() && e.index == Some(0)
        }),
        check("subflow_count", json!({ "min": 2 }), |e| e.live == Some(2)),
        check("fallback", json!({}), |_| false),
        check("age", json!({ "min": "3s" }), |e| {
            e.age.is_some_and(|a| a >= 3.0)
        }),
        check("age", json!({ "max": "7s", "of": "connection" }), |e| {
            e.connection_age.is_some_and(|a| a <= 7.0)
        }),
    ];
    for n in 0..3 {
        checks.push(check(
            "subflow_index",
            json!({ "min": n, "max": n }),
            move |e| e.index == Some(n),
        ));
    }
    for part in 1..8 {
        let (up, down) = (up * part / 8, down * part / 8);
        checks.push(check(
            "conn_bytes",
            json!({ "min": up, "direction": "up" }),
            move |e| e.bytes.is_some_and(|b| b[0] >= up),
        ));
        checks.push(check(
            "conn_bytes",
            json!({ "max": down, "direction": "down" }),
            move |e| e.bytes.is_some_and(|b| b[1] <= down),
        ));
        checks.push(check("conn_bytes", json!({ "min": up + down }), move |e| {
            e.bytes.is_some_and(|b| b[0] + b[1] >= up + down)
        }));
    }

    let selectors: Vec<_> = checks.iter().map(|(m, p, _)| (*m, p.clone())).collect();
    for hook in ["xdp", "tc-ingress", "tc-egress"] {
        let folder = Folder::new();
        // At XDP all chains must fit into one run.
        let most = if hook == "xdp" { 12 } else { selectors.len() };
        for (part, selectors) in selectors.chunks(most).enumerate() {
            let policy = folder.policy(&looking(hook, selectors));
            let capture = tests_pcaps().join(CAPTURE);
            let more = ["--json", "--explain"];
            let (lines, _) = replay(&policy, &capture, &more).lines();
            assert_eq!(lines.len(), rows.len());
            let times: Vec<f64> = lines.iter().map(|l| l["time"].as_f64().unwrap()).collect();
            let expected = expected(&rows, &times);
            for (number, (module, params)) in selectors.iter().enumerate() {
                let matches = &checks[part * most + number].2;
                let chain = format!("c{number}");
                for (packet, (line, expected)) in lines.iter().zip(&expected).enumerate() {
                    let found = outcome(line, &chain, module);
                    let wanted = if matches(expected) { "match" } else { "miss" };
                    let packet = packet + 1;
                    assert_eq!(found, Some(wanted), "{packet} {module} {params} at {hook}");
                }
            }
        }
    }
}

/// Behind the handshake, which is all that was measured then, the round trip between both ends is
/// that of the handshake.
#[test]
fn root_round_trips_of_handshakes_are_those_of_tshark() {
    let rows = rows();
    let mut thirds = HashMap::new();
    for (packet, row) in rows.iter().enumerate().filter(|(_, r)| !r.has(SYN)) {
        thirds.entry(row.stream).or_insert(packet);
    }
    assert_eq!(thirds.len(), 2);
    for packet in thirds.into_values() {
        // In whole microseconds on either side.
        let micros = (rows[packet].rtt * 1e6).round() as u64;
        assert!(micros > 100, "{micros}");
        let range = |first: u64, last: u64| {
            let params = json!({ "min": format!("{first}us"), "max": format!("{last}us") });
            ("rtt", params)
        };
        let selectors = [
            range(micros - 2, micros),
            range(0, micros - 3),
            range(micros + 1, micros + 1000),
        ];
        let folder = Folder::new();
        let policy = folder.policy(&looking("tc-ingress", &selectors));
        let capture = tests_pcaps().join(CAPTURE);
        let (lines, _) = replay(&policy, &capture, &["--json", "--explain"]).lines();
        let found = ["c0", "c1", "c2"].map(|c| outcome(&lines[packet], c, "rtt").unwrap());
        assert_eq!(found, ["match", "miss", "miss"], "{micros} us");
    }
}
