//! Edits on connections of Multipath TCP between real stacks, over two paths.

use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::raw;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;

/// Bytes of a transfer, each way.
const SIZE: usize = 4 << 20;
const PORT: u16 = 5001;
const LIMIT: Duration = Duration::from_secs(15);

fn payload() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..SIZE / 8).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.flat_map(u64::to_le_bytes).collect()
}

pub(crate) fn counter(netns: &Netns, name: &str) -> u64 {
    let all = netns.sh("nstat -asz");
    let line = all
        .lines()
        .find(|l| l.split_whitespace().next() == Some(name));
    let value = line.and_then(|l| l.split_whitespace().nth(1));
    value.map_or(0, |v| v.parse().unwrap())
}

/// What became of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// Those that the client had at the end.
    pub(crate) subflows: usize,
    /// It is plain TCP.
    pub(crate) fell_back: bool,
}

/// Established subflows of the client.
pub(crate) fn subflows(client: &Netns) -> usize {
    let sockets = client.sh(&format!("ss -Htn state established dport = :{PORT}"));
    sockets.lines().count()
}

/// Sends the payload there and back, from `client` to `server` at `address`; `meanwhile` runs when
/// both have sent something.
pub(crate) fn transfer(
    client: &Netns,
    server: &Netns,
    address: IpAddr,
    meanwhile: impl FnOnce(),
) -> Transfer {
    let wanted = payload();
    // At any address: the second subflow comes to another.
    let any: IpAddr = if address.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let listener = server.within(|| TcpListener::from(raw::mptcp_listener(any, PORT)));
    let echo = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        peer.set_write_timeout(Some(LIMIT)).unwrap();
        let mut got = vec![0; SIZE];
        peer.read_exact(&mut got).unwrap();
        peer.write_all(&got).unwrap();
        // The client reads all before it closes.
        let _ = peer.read(&mut [0]);
        got
    });
    let connect = || TcpStream::from(raw::mptcp_connect(SocketAddr::new(address, PORT)));
    let mut stream = client.within(connect);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    // The second subflow may take a moment.
    stream.write_all(&wanted[..4096]).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    meanwhile();
    stream.write_all(&wanted[4096..]).unwrap();
    let mut back = vec![0; SIZE];
    stream.read_exact(&mut back).unwrap();
    let done = Transfer {
        subflows: subflows(client),
        fell_back: raw::mptcp_fell_back(&stream),
    };
    drop(stream);
    assert!(echo.join().unwrap() == wanted, "there: not what was sent");
    assert!(back == wanted, "back: not what was sent");
    done
}

/// Clamps the window of what arrives or leaves on both links.
fn clamp(hook: &str) -> Value {
    let mut chain = json!([{ "name": "clamp", "hook": hook, "interfaces": ["p0", "p1"],
        "select": { "mptcp": {} },
        "act": [{ "record": {} }, { "set_recv_win": { "bytes": "32KiB", "wscale": 7 } }] }]);
    if hook == "xdp" {
        chain[0]["xdp"] = json!({ "trust_checksums": true });
    }
    chain
}

fn edits_keep_connections(hook: &str) {
    let rig = Rig::new(2, Tc::Tcx);
    for netns in [&rig.near, &rig.far] {
        // The buffers make the window scale.
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 net.mptcp.checksum_enabled=1 \
             net.ipv4.tcp_rmem='4096 131072 6291456' && \
             ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    rig.apply(&clamp(hook)).ok();
    for offload in ["on", "off"] {
        for netns in [&rig.near, &rig.far] {
            for link in ["p0", "p1"] {
                netns.sh(&format!("ethtool -K {link} tx {offload}"));
            }
        }
        for (address, second) in [("10.77.0.1", "10.77.1.1"), ("fd77:0::1", "fd77:1::1")] {
            rig.far.sh(&format!(
                "ip mptcp endpoint flush; ip mptcp endpoint add {second} signal"
            ));
            let what = format!("{hook}, tx {offload}, {address}");
            let ends = [&rig.near, &rig.far];
            let errors = || {
                let of = |n: &Netns| {
                    [
                        "TcpInCsumErrors",
                        "TcpInErrs",
                        "MPTcpExtDataCsumErr",
                        "MPTcpExtMPFailTx",
                    ]
                    .map(|name| counter(n, name))
                };
                ends.map(of)
            };
            let before = errors();
            let status = rig.status();
            let done = transfer(&rig.near, &rig.far, address.parse().unwrap(), || {});
            let subflows = done.subflows;
            assert!(!done.fell_back, "{what}: fell back to TCP");
            assert_eq!(subflows, 2, "{what}");
            assert_eq!(errors(), before, "{what}");
            let now = rig.status();
            let packets = |s: &Value| chain_packets(s, "clamp").unwrap();
            assert!(packets(&now) > packets(&status) + 20, "{what}");
            // Something was edited, and nothing failed.
            let treated = |s: &Value| {
                let steps = s["chains"][0]["steps"].as_array().unwrap();
                let step = steps
                    .iter()
                    .find(|s| s["module"] == "set_recv_win")
                    .unwrap();
                assert_eq!(step["errors"], 0, "{what}");
                step["matched"].as_u64().unwrap()
            };
            println!(
                "{what}: {subflows} subflows, {} packets, {} edited",
                packets(&now) - packets(&status),
                treated(&now) - treated(&status)
            );
            assert!(treated(&now) > treated(&status), "{what}");
        }
    }
    assert_eq!(rig.status()["reasons"], json!({}));
}

#[test]
fn root_mptcp_edited_at_ingress() {
    edits_keep_connections("tc-ingress");
}

#[test]
fn root_mptcp_edited_at_egress() {
    edits_keep_connections("tc-egress");
}

#[test]
fn root_mptcp_edited_at_xdp() {
    edits_keep_connections("xdp");
}
