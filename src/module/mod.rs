//! Modules: what their objects say of themselves.

mod desc;

pub use desc::Flags;
pub use desc::Hook;
pub use desc::KernelVersion;
pub use desc::Kind;
pub use desc::Module;
pub use desc::Param;
pub use desc::TableKey;
pub use desc::Type;
