//! Programmable Multipath TCP on stock Linux kernels.

pub mod module;
