//! The only code that changes the kernel: loads steps (`loader`), puts them in
//! force (`publish`, `attach`) and tells what is in force (`inspect`).

mod attach;
mod code;
mod compare;
mod counters;
mod exchange;
mod inspect;
mod instance;
mod leftovers;
mod loader;
mod mptcp_pm;
mod netlink;
mod numbers;
mod publish;
mod shared;
mod state;
mod stored;
mod verifier;
mod view;

pub use compare::Monolith;
pub use compare::Timed;
pub use counters::Counters;
pub use inspect::Applied;
pub use inspect::AttachmentStatus;
pub use inspect::ChainStatus;
pub use inspect::InForce;
pub use inspect::NamespaceStatus;
pub use inspect::Status;
pub use inspect::StepStatus;
pub use inspect::policy;
pub use inspect::status;
pub use inspect::status_all;
pub use instance::Instance;
pub use instance::Options;
pub use instance::Verdict;
pub(crate) use leftovers::Leftovers;
pub(crate) use leftovers::leftovers;
pub(crate) use mptcp_pm::MptcpLimits;
pub(crate) use mptcp_pm::mptcp_limits;
pub use netlink::interfaces;
pub(crate) use netlink::port_states;
pub use publish::Apply;
pub use publish::Origin;
pub use publish::Outcome;
pub use publish::delete;
pub use verifier::verifier_log;
pub use view::StateView;
pub use view::state;

pub use crate::sys::TestRun;
