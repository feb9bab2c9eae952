//! Emulated links between network namespaces, and real MPTCP traffic over them.
//!
//! The folder's README.md describes the lab file and the commands. The `emptcp-lab` command is a
//! thin layer over this library; tests use [`Lab`] directly.

pub mod config;
mod lab;
pub mod lateness;
pub mod link;
pub mod netns;
mod relay;
mod sys;
mod tap;
pub mod traffic;
pub mod units;

pub use config::Config;
pub use lab::{DEFAULT_PREFIX, Lab, clean, eventually, undisturbed};
pub use relay::{DirectionReport, Report};
