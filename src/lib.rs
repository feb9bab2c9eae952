//! Programmable Multipath TCP on stock Linux kernels.

mod abi;
pub mod datapath;
pub mod graph;
pub mod module;
pub mod params;
mod pin;
pub mod policy;
mod sys;
