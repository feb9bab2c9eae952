//! Emulated links between network namespaces, and real MPTCP traffic over them.

pub mod config;
pub mod lateness;
pub mod link;
pub mod units;

pub use config::Config;
