//! The payload: a pseudo-random stream that both ends know from a seed.
//!
//! A receiver compares every byte with the stream, which finds any change, loss, repetition or
//! exchange and says where it is. The stream is one block of pseudo-random words, repeated; its
//! length is prime, so that data moved by any number of segments or pages do not match. Making a
//! block takes a fraction of a millisecond, so that it does not show in the time of a request, and
//! repeating it costs next to nothing, which leaves the processor to the relay.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of the block; prime.
const BLOCK: usize = 65_537;
/// Blocks kept for seeds that were used.
const KEPT_BLOCKS: usize = 64;

/// A position in the stream of a seed.
#[derive(Clone, Debug)]
pub struct Payload {
    block: Arc<[u8]>,
    position: u64,
}

/// Received bytes that differ from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Position in the stream of the first wrong byte.
    pub position: u64,
}

impl Payload {
    /// The stream of `seed` from byte `position` on.
    pub fn new(seed: u64, position: u64) -> Self {
        static BLOCKS: Mutex<Option<HashMap<u64, Arc<[u8]>>>> = Mutex::new(None);
        let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = blocks.get_or_insert_default();
        if blocks.len() >= KEPT_BLOCKS && !blocks.contains_key(&seed) {
            blocks.clear();
        }
        let block = blocks.entry(seed).or_insert_with(|| {
            let mut state = seed;
            let mut block = vec![0; BLOCK];
            for piece in block.chunks_mut(8) {
                let word = split_mix(&mut state).to_le_bytes();
                piece.copy_from_slice(&word[..piece.len()]);
            }
            block.into()
        });
        Self {
            block: Arc::clone(block),
            position,
        }
    }

    /// The next bytes of the stream: at least one, at most `length`. Does not move on.
    pub fn peek(&self, length: usize) -> &[u8] {
        let start = (self.position % BLOCK as u64) as usize;
        let end = start.saturating_add(length).min(BLOCK);
        &self.block[start..end]
    }

    /// Moves on by `length` bytes.
    pub fn advance(&mut self, length: usize) {
        self.position += length as u64;
    }

    /// Fills `out` with the next bytes and moves on.
    pub fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            let bytes = self.peek(out.len());
            let length = bytes.len();
            let (head, tail) = out.split_at_mut(length);
            head.copy_from_slice(bytes);
            out = tail;
            self.advance(length);
        }
    }

    /// Compares received bytes with the next ones and moves on.
    pub fn check(&mut self, mut received: &[u8]) -> Result<(), Mismatch> {
        while !received.is_empty() {
            let expected = self.peek(received.len());
            let length = expected.len();
            let (head, tail) = received.split_at(length);
            if head != expected {
                let same = head
                    .iter()
                    .zip(expected)
                    .take_while(|(a, b)| a == b)
                    .count();
                return Err(Mismatch {
                    position: self.position + same as u64,
                });
            }
            received = tail;
            self.advance(length);
        }
        Ok(())
    }
}

/// The next word of the SplitMix64 generator.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_have_the_same_stream() {
        let mut sent = vec![0; 700_000];
        Payload::new(1, 5).fill(&mut sent);
        let mut check = Payload::new(1, 5);
        for piece in sent.chunks(1448) {
            assert_eq!(check.check(piece), Ok(()));
        }
        let mut later = vec![0; 1000];
        Payload::new(1, 300_005).fill(&mut later);
        assert_eq!(sent[300_000..301_000], later);
        // The generator is the published one: its first word from state 0.
        let mut first = [0; 8];
        Payload::new(0, 0).fill(&mut first);
        assert_eq!(u64::from_le_bytes(first), 0xe220_a839_7b1d_cdaf);
        assert!(Payload::new(2, 5).check(&sent).is_err());
    }

    #[test]
    fn any_change_is_found_where_it_is() {
        let mut sent = vec![0; 300_000];
        Payload::new(1, 0).fill(&mut sent);
        sent[270_000] ^= 1;
        assert_eq!(
            Payload::new(1, 0).check(&sent),
            Err(Mismatch { position: 270_000 })
        );
        sent[270_000] ^= 1;
        // One segment was left out.
        sent.drain(1448..2896);
        assert_eq!(
            Payload::new(1, 0).check(&sent),
            Err(Mismatch { position: 1448 })
        );
    }
}
