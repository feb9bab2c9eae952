//! How much a program may do, and how soon it comes back when it has failed.

use std::time::Duration;
use std::time::Instant;

/// First and longest pause before a program that has ended is started again.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// One that ran for so long is taken for sound.
const SOUND: Duration = Duration::from_secs(60);

/// So many a second, and that many at once (a token bucket).
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: f64,
    most: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: u32, most: u32, now: Instant) -> Self {
        Self {
            rate: rate.into(),
            most: most.into(),
            left: most.into(),
            at: now,
        }
    }

    /// Takes one; `false`: there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let time = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + time * self.rate).min(self.most);
        self.at = now;
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// Pauses before a program is started again: each twice the one before.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The pause for a program that ran for so long.
    pub(crate) fn next(&mut self, ran: Duration) -> Duration {
        let pause = match self.last {
            Some(last) if ran < SOUND => (last * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some(pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 3, start);
        let after = |ms| start + Duration::from_millis(ms);
        let taken = |bucket: &mut Bucket, now| (0..9).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, after(50)), 0);
        assert_eq!(taken(&mut bucket, after(110)), 1);
        assert_eq!(taken(&mut bucket, after(10_000)), 3);
    }

    #[test]
    fn backoff() {
        let mut backoff = Backoff::default();
        let mut pauses = |ran| backoff.next(Duration::from_secs(ran)).as_millis();
        let first: Vec<_> = (0..11).map(|_| pauses(0)).collect();
        let expected = [
            100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000,
        ];
        assert_eq!(first, expected);
        assert_eq!(pauses(59), 30000);
        assert_eq!(pauses(60), 100);
        assert_eq!(pauses(0), 200);
    }
}
