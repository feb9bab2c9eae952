//! Programmable Multipath TCP on stock Linux kernels.

pub mod graph;
pub mod module;
pub mod params;
pub mod policy;
