//! The clock that a replay runs by.

/// Where it begins, in nanoseconds: modules may take 0 for "never".
const START: u64 = 86_400_000_000_000;

/// Time of packets as modules get it (`include/emptcp/clock.h`): the distances are those of the
/// capture, whenever it was made; it never goes back, as a clock of the kernel does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    first: Option<u64>,
    latest: u64,
}

impl Clock {
    /// The time, in nanoseconds, for a packet that was captured at `time` (nanoseconds since the
    /// epoch); a packet without a time has that of the one before.
    pub fn at(&mut self, time: Option<u64>) -> u64 {
        if let Some(time) = time {
            let first = *self.first.get_or_insert(time);
            self.latest = self.latest.max(time.saturating_sub(first));
        }
        START.saturating_add(self.latest)
    }

    /// Nanoseconds since the first packet that had a time.
    pub fn since_first(&self) -> u64 {
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_capture_and_it_never_goes_back() {
        let mut clock = Clock::default();
        let times = [
            None,
            Some(5_000),
            Some(5_007),
            Some(5_003),
            None,
            Some(6_000),
        ];
        let told = times.map(|time| clock.at(time) - START);
        assert_eq!(told, [0, 0, 7, 7, 7, 1_000]);
        assert_eq!(clock.since_first(), 1_000);
    }
}
