//! `emptcp set-prio`: what one owner wants, beside others (`include/emptcp/prio.h`).

use anyhow::Result;

use super::Done;
use super::inject::Sent;
use super::inject::Wanted;
use super::inject::Which;
use super::inject::print;
use super::inject::wrong_usage;
use super::print_json;
use super::running_kernel;
use crate::abi::PrioWish;
use crate::abi::TrackSubflow;
use crate::datapath::Frames;
use crate::datapath::Lock;
use crate::datapath::Owner;
use crate::datapath::PrioWishes;
use crate::datapath::Seat;
use crate::datapath::boot_time;
use crate::datapath::is_wanted;
use crate::frame::Opt;
use crate::frame::To;
use crate::track::Ends;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "emptcp set-prio [OPTIONS] <SUBFLOW|--token TOKEN> <backup|nobackup>\n       \
                      emptcp set-prio [OPTIONS] <SUBFLOW|--token TOKEN> --release"
)]
pub(super) struct Args {
    /// The subflow, as `emptcp subflows` prints it or as a key of a table
    /// ("10.0.0.1:999-10.0.0.2:80"), either end first; and "backup": only where no other subflow
    /// can be used, or "nobackup".
    #[arg(required_unless_present = "release", num_args = 1..=2, value_name = "SUBFLOW PRIORITY")]
    words: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// Who shall treat them so when it sends.
    #[arg(long, value_enum, default_value = "both")]
    to: To,
    /// Whose wish it is: a subflow is backup while any owner wants it. A name, or the number that
    /// chains have as "owner".
    #[arg(long, default_value = "cli", value_name = "NAME")]
    owner: String,
    /// Take back what the owner wanted.
    #[arg(long)]
    release: bool,
}

/// What is to be done for a direction of a subflow.
struct Step {
    ends: Ends,
    sub: TrackSubflow,
    direction: usize,
    /// Wishes as they are, and as they will be.
    before: Option<PrioWish>,
    after: PrioWish,
    /// MP_PRIO is sent.
    tells: bool,
}

pub(super) fn run(json: bool, args: &Args) -> Result<Done> {
    let (subflow, wanted) = words(args);
    let owner = Owner::parse(&args.owner);
    let owner = owner.unwrap_or_else(|error| wrong_usage(&format!("--owner: {error}")));
    let target = Wanted::of(subflow, &args.which)?;
    // Of two commands at once none may overwrite what the other one has noted.
    let frames = Frames::open_with(running_kernel()?, Lock::Exclusive)?;
    let subflows = target.find(&frames.track()?)?;
    let dry_run = args.which.dry_run;
    // Who wants backup is remembered; what nobody else remembers needs no place.
    let (known, seat) = match (wanted, dry_run) {
        (Some(true), false) => {
            let known = PrioWishes::open_or_create()?;
            let seat = known.take_seat(&owner)?;
            (Some(known), Some(seat))
        }
        _ => match PrioWishes::open()? {
            Some(known) => {
                let seat = known.seat(&owner)?;
                (Some(known), seat)
            }
            None => (None, None),
        },
    };
    let mut steps = Vec::new();
    for (ends, sub) in subflows {
        for direction in args.to.directions(&ends, &sub)? {
            let before = match &known {
                Some(known) => known.get(&ends, &sub, direction)?,
                None => None,
            };
            let (after, tells) = decide(before, seat, wanted);
            steps.push(Step {
                ends,
                sub,
                direction,
                before,
                after,
                tells,
            });
        }
    }
    let mut all = Vec::new();
    let mut ready = Vec::new();
    for step in &steps {
        let option = Opt::prio(is_wanted(&step.after));
        let frame = match step.tells {
            true => Some(frames.frame(&step.ends, step.direction)?),
            false => None,
        };
        if let Some(frame) = &frame {
            frame.ack.bytes(&option)?;
        }
        ready.push((step, option, frame));
    }
    for (step, option, frame) in &ready {
        if !dry_run {
            carry_out(&frames, known.as_ref(), step, option)?;
        }
        let mut sent = Sent::new(&step.ends, &step.sub, step.direction, option);
        if let Some(frame) = frame {
            sent.take(frame, option, dry_run)?;
        }
        let mut wanted_by = match (&known, seat) {
            (Some(known), Some(_)) => known.owners(&step.after)?,
            (Some(known), None) => known.owners(&step.before.unwrap_or_default())?,
            (None, _) => Vec::new(),
        };
        if seat.is_none() && wanted == Some(true) {
            wanted_by.push(owner.to_string());
        }
        sent.wanted_by = Some(wanted_by);
        all.push(sent);
    }
    if json {
        print_json(&all)?;
        return Ok(Done::Yes);
    }
    for (sent, (_, _, frame)) in all.iter().zip(&ready) {
        match frame {
            Some(frame) => print(sent, frame),
            None => print_silent(sent, &owner),
        }
    }
    Ok(Done::Yes)
}

/// The subflow, and what is wanted; `None`: nothing any more.
fn words(args: &Args) -> (Option<&str>, Option<bool>) {
    if args.release {
        return match &args.words[..] {
            [] if args.which.has_token() => (None, None),
            [subflow] if !args.which.has_token() => (Some(subflow), None),
            _ => wrong_usage("with --release expected a subflow or --token, and nothing else"),
        };
    }
    let (subflow, priority) = args.which.split(&args.words);
    match priority {
        "backup" => (subflow, Some(true)),
        "nobackup" => (subflow, Some(false)),
        other => wrong_usage(&format!("expected backup or nobackup, not {other:?}")),
    }
}

/// The wishes behind this one, and whether the peer is told. What an owner asks for is told though
/// nothing changes, for a frame may have been lost; but not against the wish of another owner.
fn decide(before: Option<PrioWish>, seat: Option<Seat>, wanted: Option<bool>) -> (PrioWish, bool) {
    let mut after = before.unwrap_or_default();
    if let Some(seat) = seat {
        seat.set(&mut after, wanted.unwrap_or(false));
    } else if wanted == Some(true) {
        // Of an owner that has no seat yet, and gets none: nothing is stored.
        after.pad_named[0] = 1;
    }
    let told = after.at != 0 && after.backup != 0;
    let tells = match wanted {
        Some(wanted) => wanted == is_wanted(&after),
        None => after.at != 0 && told != is_wanted(&after),
    };
    (after, tells)
}

/// Stores the wishes, where some are known, and sends the frame.
fn carry_out(frames: &Frames, known: Option<&PrioWishes>, step: &Step, option: &Opt) -> Result<()> {
    let (ends, direction) = (&step.ends, step.direction);
    let store = |wish: Option<&PrioWish>| match known {
        // Nobody has wished anything.
        None => Ok(()),
        Some(_) if step.before.is_none() && !is_wanted(&step.after) => Ok(()),
        Some(known) => known.put(ends, direction, wish),
    };
    let mut after = step.after;
    if !step.tells {
        return store(Some(&after));
    }
    // Looked at before, and once more: a packet may have come since.
    let frame = frames.frame(ends, direction)?;
    after.at = boot_time()?;
    after.backup = is_wanted(&after).into();
    // First: chains that the frame meets have nothing to add.
    store(Some(&after))?;
    let sent = frames.send(&frame, option);
    if sent.is_err() {
        store(step.before.as_ref())?;
    }
    sent
}

/// Says why nothing is sent.
fn print_silent(sent: &Sent, owner: &Owner) {
    let others = sent.wanted_by.as_deref().unwrap_or_default();
    let to = sent.to.map_or(String::new(), |to| format!("{to} "));
    let place = format!("{}: {to}{}", sent.subflow, sent.receiver);
    if others.is_empty() {
        println!("{place}: owner {owner} wanted nothing that the other end would be told");
    } else {
        println!("{place}: stays backup, wanted by {}", others.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(backup: bool, seats: &[Seat]) -> Option<PrioWish> {
        let mut wish = PrioWish {
            at: 5,
            backup: backup.into(),
            ..PrioWish::default()
        };
        for seat in seats {
            seat.set(&mut wish, true);
        }
        Some(wish)
    }

    #[test]
    fn the_last_one_ends_it() {
        let (cli, chain) = (Seat::Named(0), Seat::Chains(3));
        let tells = |before, wanted| {
            let (after, tells) = decide(before, Some(cli), wanted);
            (is_wanted(&after), tells)
        };
        assert_eq!(tells(None, Some(true)), (true, true));
        assert_eq!(tells(None, Some(false)), (false, true));
        assert_eq!(tells(None, None), (false, false));
        assert_eq!(tells(told(true, &[cli]), Some(true)), (true, true));
        assert_eq!(tells(told(true, &[cli]), None), (false, true));
        assert_eq!(tells(told(true, &[cli, chain]), None), (true, false));
        assert_eq!(tells(told(true, &[cli, chain]), Some(false)), (true, false));
        assert_eq!(tells(told(true, &[chain]), Some(true)), (true, true));
        assert_eq!(tells(told(false, &[]), None), (false, false));
    }
}
