//! What the tests of emptcp share: packets made from a description, captures
//! that others made, and two decoders that know nothing of emptcp (tshark, and
//! checksums recomputed from scratch).

pub mod captures;
pub mod csum;
pub mod fixtures;
pub mod hosts;
pub mod model;
mod num;
pub mod options;
pub mod outside;
pub mod packet;
pub mod pcap;
pub mod tshark;

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Ethernet header.
    Ethernet,
    /// IP header, as on tun devices and other layer-3 interfaces.
    RawIp,
}
