//! `emptcp schema`

use anyhow::Result;

use super::Context;
use super::Done;
use super::print_json;
use crate::schema::schema;

pub(super) fn run(context: &Context) -> Result<Done> {
    print_json(&schema(context.registry.modules())?)?;
    Ok(Done::Yes)
}
