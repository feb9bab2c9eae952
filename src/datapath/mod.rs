//! The only code that changes the kernel.

mod counters;
mod instance;
pub(crate) mod loader;
mod netlink;
mod verifier;

pub use counters::Counters;
pub use instance::Instance;
pub use instance::Options;
pub use instance::Verdict;
pub use netlink::Interface;
pub use netlink::Interfaces;
pub use crate::sys::TestRun;
