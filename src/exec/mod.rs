//! The protocol of programs that decide (`docs/exec.md`): lines of JSON both ways, what may be
//! asked, how much of it, and who has put what into tables. Pure: `cli::run::exec` has the
//! processes and sockets, `datapath` the maps.

mod command;
mod limit;
mod line;
mod wishes;

pub(crate) use self::command::Answer;
pub(crate) use self::command::Command;
pub(crate) use self::command::Subscribe;
pub(crate) use self::command::line as answer_line;
pub(crate) use self::command::parse;
pub(crate) use self::limit::Backoff;
pub(crate) use self::limit::Bucket;
pub(crate) use self::line::LONGEST;
pub(crate) use self::line::Lines;
pub(crate) use self::line::Outbox;
pub(crate) use self::wishes::Held;
pub(crate) use self::wishes::Owner;
pub(crate) use self::wishes::Place;
pub(crate) use self::wishes::Wishes;

/// Version of the protocol, in the first line that a program gets. It changes when a line changes
/// its meaning; new fields, events and commands come without.
pub(crate) const VERSION: u32 = 1;
