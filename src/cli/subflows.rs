//! `emptcp subflows`

use std::net::SocketAddr;

use anyhow::Result;
use anyhow::anyhow;

use super::Done;
use super::status::print_table;
use super::status::table;
use super::watch::Watch;
use super::watch::or_dash;
use super::watch::time_text;
use crate::datapath::interfaces;
use crate::datapath::subflows;
use crate::interface::Interfaces;
use crate::module::TableKey;
use crate::policy::Place;
use crate::table_text;
use crate::track::EndView;
use crate::track::KernelView;
use crate::track::SubflowView;
use crate::track::token_text;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    watch: Watch,
    /// Also those whose handshake is not over.
    #[arg(short, long)]
    all: bool,
    /// Also what the kernel knows of sockets of this host.
    #[arg(short, long)]
    info: bool,
    /// Only those of the connection whose server has this token.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Only those of which packets are counted at this interface.
    #[arg(long, value_name = "INTERFACE")]
    dev: Option<String>,
}

pub(super) fn run(json: bool, args: &Args) -> Result<Done> {
    let token = args.token.as_deref().map(token).transpose()?;
    let read = || {
        let interfaces = interfaces()?;
        let dev = match &args.dev {
            Some(name) => Some(full_name(&interfaces, name)?),
            None => None,
        };
        let mut all = subflows(args.all, args.info || json, &interfaces)?;
        all.retain(|s| token.is_none() || s.token == token);
        all.retain(|s| dev.is_none_or(|dev| s.is_at(dev)));
        Ok(all)
    };
    args.watch.show(json, read, |all| print(all, args.info))?;
    Ok(Done::Yes)
}

/// A token as views have it.
fn token(word: &str) -> Result<String> {
    let keys = table_text::keys(TableKey::Token, word, &Place::root(""));
    let keys = keys.map_err(|error| anyhow!("--token: {}", error.message))?;
    let bytes = keys.first().and_then(|key| key.first_chunk());
    let bytes = bytes.ok_or_else(|| anyhow!("--token: not a token"))?;
    Ok(token_text(u32::from_ne_bytes(*bytes)))
}

/// The name of an interface, of one of its names.
fn full_name<'i>(interfaces: &'i Interfaces, name: &str) -> Result<&'i str> {
    let found = interfaces.0.iter().find(|i| i.names().any(|n| n == name));
    let found = found.ok_or_else(|| anyhow!("--dev: there is no interface {name:?}"))?;
    Ok(&found.name)
}

fn print(all: &[SubflowView], info: bool) {
    let mut header = vec![
        "TOKEN", "IDX", "KIND", "STATE", "SUBFLOW", "DEV→", "DEV←", "BACKUP", "BYTES→", "BYTES←",
        "PKTS→", "PKTS←", "RETR→", "RETR←", "RTT→", "RTT←", "WSCALE", "IDS", "AGE", "IDLE",
        "FALLBACK",
    ];
    if info {
        header.extend(["CWND", "SRTT", "RETRANS", "OWN TOKEN"]);
    }
    let mut out = table(&header, &[1, 8, 9, 10, 11, 12, 13, 18, 19]);
    for s in all {
        out.add_row(row(s, info));
    }
    print_table(&out);
}

fn row(s: &SubflowView, info: bool) -> Vec<String> {
    let both = |of: &dyn Fn(&EndView) -> String| format!("{}/{}", of(&s.from), of(&s.to));
    let arrow = if s.opener_known { "→" } else { "↔" };
    let mut cells = vec![
        or_dash(s.token.as_deref()),
        or_dash(s.index),
        or_dash(s.kind),
        s.state.to_owned(),
        format!("{} {arrow} {}", place(&s.from), place(&s.to)),
    ];
    let mut each = |of: &dyn Fn(&EndView) -> String| {
        cells.push(of(&s.from));
        cells.push(of(&s.to));
    };
    each(&|end| or_dash(end.interface.as_deref()));
    let asks = match (s.from.asks_backup, s.to.asks_backup) {
        (Some(true), Some(true)) => "both",
        (Some(true), _) => "→",
        (_, Some(true)) => "←",
        (Some(false), Some(false)) => "no",
        _ => "-",
    };
    cells.push(asks.to_owned());
    let mut each = |of: &dyn Fn(&EndView) -> String| {
        cells.push(of(&s.from));
        cells.push(of(&s.to));
    };
    each(&|end| or_dash(end.bytes));
    each(&|end| or_dash(end.packets));
    each(&|end| or_dash(end.retransmitted_bytes));
    each(&|end| match end.srtt_us {
        Some(srtt) => format!("{}/{}", rtt(Some(srtt)), rtt(end.min_rtt_us)),
        None => "-".to_owned(),
    });
    cells.extend([
        both(&|end| or_dash(end.wscale)),
        both(&|end| or_dash(end.address_id)),
        time_text(s.age_ms),
        or_dash(s.idle_ms.map(time_text)),
        or_dash(s.fallback.as_ref().map(|f| &f.cause)),
    ]);
    if info {
        let ends = [s.from.kernel.as_ref(), s.to.kernel.as_ref()];
        let mut each = |of: &dyn Fn(&KernelView) -> String| {
            let known: Vec<String> = ends.iter().flatten().map(|kernel| of(kernel)).collect();
            cells.push(match known.is_empty() {
                true => "-".to_owned(),
                // Both ends are here.
                false => known.join("/"),
            });
        };
        each(&|kernel| or_dash(kernel.cwnd));
        each(&|kernel| rtt(kernel.srtt_us));
        each(&|kernel| or_dash(kernel.retransmits));
        each(&|kernel| or_dash(kernel.token.as_deref()));
    }
    cells
}

fn place(end: &EndView) -> String {
    SocketAddr::new(end.address, end.port).to_string()
}

/// Milliseconds, as `ss` prints them.
fn rtt(microseconds: Option<u32>) -> String {
    or_dash(microseconds.map(|time| f64::from(time) / 1000.0))
}
