//! Files and directories of a policy.

use std::path::Path;

use super::Diagnostic;
use super::Policy;

/// A file of a policy, not yet parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// How messages name it.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Reads and parses a file, or a directory of fragments.
///
/// # Errors
///
/// All that is wrong, sorted by place.
pub fn load(path: &Path) -> Result<Policy, Vec<Diagnostic>> {
    super::parse(&read_fragments(path)?)
}

/// Reads a file, or the fragments of a directory: its `*.json`, sorted by name, without those
/// whose name begins with a dot.
///
/// # Errors
///
/// What cannot be read; a directory without a fragment.
pub fn read_fragments(path: &Path) -> Result<Vec<Fragment>, Vec<Diagnostic>> {
    let _ = path;
    Ok(Vec::new())
}
