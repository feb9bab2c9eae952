//! Programmable Multipath TCP on stock Linux kernels.

mod abi;
mod sys;
pub mod module;
