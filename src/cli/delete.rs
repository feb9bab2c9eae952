//! `emptcp delete`

use anyhow::Result;

use super::Context;
use super::Done;
use super::print_json;
use crate::datapath::delete;

pub(super) fn run(context: &Context) -> Result<Done> {
    let deleted = delete()?;
    if context.json {
        print_json(&serde_json::json!({ "changed": deleted }))?;
    } else if !deleted {
        eprintln!("emptcp: no policy is in force in this network namespace");
    }
    Ok(Done::Yes)
}
