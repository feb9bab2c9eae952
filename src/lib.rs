//! Programmable Multipath TCP on stock Linux kernels.

mod abi;
mod capture;
pub mod cli;
pub mod datapath;
pub mod doctor;
mod event;
mod exec;
mod frame;
pub mod graph;
mod insn;
pub mod interface;
pub mod memory;
pub mod module;
pub mod params;
mod pin;
pub mod plan;
pub mod policy;
pub mod replay;
pub mod schema;
mod sys;
pub mod table;
pub mod table_text;
pub mod track;
