//! Showing something once, or again and again.

use std::io;
use std::io::IsTerminal as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::print_json;

/// How often something is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// Show it again every so many seconds; with --json a line each time.
    #[arg(
        short = 'w',
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = clap::value_parser!(u32).range(1..=86400)
    )]
    watch: Option<u32>,
}

impl Watch {
    /// Shows what `read` gives, as JSON or by `print`.
    ///
    /// # Errors
    ///
    /// Those of `read`, or of standard output.
    pub(super) fn show<T: Serialize>(
        &self,
        json: bool,
        mut read: impl FnMut() -> Result<T>,
        print: impl Fn(&T),
    ) -> Result<()> {
        let Some(seconds) = self.watch else {
            let value = read()?;
            if json {
                return print_json(&value);
            }
            print(&value);
            return Ok(());
        };
        loop {
            let value = read()?;
            let mut out = io::stdout().lock();
            if json {
                serde_json::to_writer(&mut out, &value)?;
                writeln!(out)?;
            } else {
                if out.is_terminal() {
                    // Home, and clear to the end (ECMA-48, CUP and ED).
                    write!(out, "\x1b[H\x1b[J")?;
                }
                print(&value);
            }
            out.flush()?;
            drop(out);
            std::thread::sleep(Duration::from_secs(seconds.into()));
        }
    }
}

/// What is not known is `-`.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// A time as people read it, in its two largest units: `45s`, `3m05s`, `2h03m`, `5d01h`.
pub(super) fn time_text(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (185, "3m05s"),
            (7380, "2h03m"),
            (436_000, "5d01h"),
        ] {
            assert_eq!(time_text(seconds * 1000 + 999), text);
        }
    }
}
