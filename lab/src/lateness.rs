//! How late the relay was: the figure that tells whether a run can be believed.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::link::Nanos;

/// A packet is late when it is delivered more than this many nanoseconds after its time.
pub const LATE: Nanos = 5_000_000;
/// A run is disturbed when more than this share of its packets is late.
pub const DISTURBED: f64 = 0.001;

/// Histogram of delivery time minus due time.
#[derive(Clone, Debug)]
pub struct Lateness {
    /// In microseconds.
    histogram: Histogram<u64>,
    late: u64,
}

/// The figures of [`Lateness`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LatenessReport {
    /// Packets delivered.
    pub packets: u64,
    /// Packets more than 5 ms late.
    pub late: u64,
    /// Share of late packets, 0 to 1.
    pub late_ratio: f64,
    /// Whether more than 0.1 % of the packets were late.
    pub disturbed: bool,
    /// Median, in microseconds.
    pub median_us: u64,
    /// 99th percentile, in microseconds.
    pub p99_us: u64,
    /// 99.9th percentile, in microseconds.
    pub p999_us: u64,
    /// Largest, in microseconds.
    pub max_us: u64,
    /// Packets per class of lateness, empty classes left out.
    pub histogram: Vec<LatenessClass>,
}

/// One class of the histogram.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LatenessClass {
    /// Largest lateness of the class, in microseconds.
    pub up_to_us: u64,
    /// Packets in it.
    pub packets: u64,
}

impl Default for Lateness {
    fn default() -> Self {
        Self {
            histogram: histogram(),
            late: 0,
        }
    }
}

/// Microseconds up to an hour, two significant digits.
fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, 3_600_000_000, 2) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds are constants: {error}"),
    }
}

impl Lateness {
    /// Counts a packet that was delivered `late` nanoseconds after its time.
    pub fn record(&mut self, late: Nanos) {
        self.histogram.saturating_record(late.div_ceil(1000));
        if late > LATE {
            self.late += 1;
        }
    }

    /// The figures so far.
    pub fn report(&self) -> LatenessReport {
        let packets = self.histogram.len();
        let late_ratio = if packets == 0 {
            0.0
        } else {
            self.late as f64 / packets as f64
        };
        LatenessReport {
            packets,
            late: self.late,
            late_ratio,
            disturbed: late_ratio > DISTURBED,
            median_us: self.histogram.value_at_quantile(0.5),
            p99_us: self.histogram.value_at_quantile(0.99),
            p999_us: self.histogram.value_at_quantile(0.999),
            max_us: self.histogram.max(),
            histogram: self
                .histogram
                .iter_log(10, 2.0)
                .filter(|step| step.count_since_last_iteration() > 0)
                .map(|step| LatenessClass {
                    up_to_us: step.value_iterated_to(),
                    packets: step.count_since_last_iteration(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disturbed_above_one_in_a_thousand() {
        let mut lateness = Lateness::default();
        assert!(!lateness.report().disturbed);
        for _ in 0..1998 {
            lateness.record(20_000);
        }
        lateness.record(LATE);
        lateness.record(LATE + 1);
        lateness.record(LATE + 1);
        let report = lateness.report();
        assert_eq!((report.packets, report.late), (2001, 2));
        assert!(!report.disturbed, "{}", report.late_ratio);
        lateness.record(50_000_000);
        let report = lateness.report();
        assert!(report.disturbed, "{}", report.late_ratio);
        assert_eq!(report.median_us, 20);
        assert!(
            (50_000..51_000).contains(&report.max_us),
            "{}",
            report.max_us
        );
        let total: u64 = report.histogram.iter().map(|class| class.packets).sum();
        assert_eq!(total, report.packets);
    }
}
