//! `emptcp connections`

use anyhow::Result;
use anyhow::anyhow;

use super::Done;
use super::print_json;
use super::status::print_table;
use super::status::table;
use super::watch::Watch;
use super::watch::or_dash;
use super::watch::time_text;
use crate::datapath::connections;
use crate::datapath::sweep_track;
use crate::params::literal;
use crate::policy::Place;
use crate::policy::quantity;
use crate::track::ConnectionView;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    watch: Watch,
    /// Forget idle subflows, and connections that no subflow belongs to, instead.
    #[arg(long, conflicts_with = "watch")]
    sweep: bool,
    /// How long an established subflow may be idle for --sweep [default: 5d].
    #[arg(long, value_name = "TIME", requires = "sweep")]
    idle: Option<String>,
}

pub(super) fn run(json: bool, args: &Args) -> Result<Done> {
    if args.sweep {
        return sweep(json, args.idle.as_deref());
    }
    args.watch.show(json, connections, |all| print(all))?;
    Ok(Done::Yes)
}

fn sweep(json: bool, idle: Option<&str>) -> Result<Done> {
    let idle = match idle {
        Some(text) => {
            let time = quantity::time(&literal(text, &Place::root("")));
            Some(time.map_err(|error| anyhow!("--idle: {}", error.message))?)
        }
        None => None,
    };
    let swept = sweep_track(idle)?;
    if json {
        print_json(&swept)?;
    } else {
        println!(
            "forgotten: {} subflows, {} handshakes, {} connections",
            swept.subflows, swept.half_open, swept.connections
        );
    }
    Ok(Done::Yes)
}

fn print(all: &[ConnectionView]) {
    let mut out = table(
        &[
            "TOKEN",
            "CLIENT",
            "V",
            "ZONE",
            "FIRST SUBFLOW",
            "STATE",
            "LIVE",
            "EVER",
            "UP",
            "DOWN",
            "AGE",
            "FALLBACK",
        ],
        &[3, 6, 7, 8, 9, 10],
    );
    for c in all {
        let ends = match (c.client, c.server) {
            (Some(client), Some(server)) => format!("{client} → {server}"),
            _ => "-".to_owned(),
        };
        out.add_row([
            or_dash(c.token.as_deref()),
            or_dash(c.client_token.as_deref()),
            c.version.to_string(),
            c.zone.to_string(),
            ends,
            c.state.to_owned(),
            c.subflows.to_string(),
            or_dash(c.subflows_ever),
            or_dash(c.bytes_up),
            or_dash(c.bytes_down),
            time_text(c.age_ms),
            or_dash(c.fallback.as_deref()),
        ]);
    }
    print_table(&out);
}
