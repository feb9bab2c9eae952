//! Captures that run through the chains of a policy: pure. What runs them is
//! [`crate::datapath::Replay`].

pub mod clock;
pub mod file;
pub mod link;
pub mod trace;
