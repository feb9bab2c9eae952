//! A policy as one JSON document.

use super::Policy;

/// The policy as one document: what `show --json` prints and `apply` reads.
///
/// Keys are in the order of the format's description, fields that have their
/// default are left out, chains stand in the order of [`Policy::in_order`]'s
/// ties. Parsing it gives an equal policy.
pub fn canonical(policy: &Policy) -> serde_json::Value {
    let _ = policy;
    serde_json::Value::Null
}

/// [`canonical`] as text: indented by two spaces, with a newline at its end.
pub fn canonical_text(policy: &Policy) -> String {
    format!("{:#}\n", canonical(policy))
}
