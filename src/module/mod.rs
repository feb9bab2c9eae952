//! Modules: the selectors and actors that policies are made of, as their
//! objects describe them. Built-in modules and modules from files take the same
//! path.

mod btf;
mod desc;
mod fact;
mod folder;
mod packed;
mod registry;
mod screen;

pub use desc::Flags;
pub use desc::Hook;
pub use desc::KernelVersion;
pub use desc::Kind;
pub use desc::Module;
pub use desc::Param;
pub use desc::TableKey;
pub use desc::Type;
pub use fact::EventFact;
pub use fact::Fact;
pub use registry::Family;
pub use registry::Field;
pub use registry::MapInfo;
pub use registry::Object;
pub use registry::Registry;
pub use registry::Scope;
pub use registry::Shape;
pub use registry::describe;
pub(crate) use registry::monolith;
