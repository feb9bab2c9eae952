//! What the traffic commands say to each other on a connection.
//!
//! Every transfer begins with a [`Header`] from the client. A *bulk* transfer, in either
//! direction, is a row of blocks (4 bytes length, then payload), ended by a block of length zero
//! and 8 bytes with the total; the receiver answers with a [`Verdict`]. An *exchange* is a request
//! (the header counts as its first bytes) and a response, both plain payload. All numbers are big
//! endian.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::payload::{Mismatch, Payload};

/// Bytes of a header, and so of the smallest request.
pub const HEADER: usize = 48;
const MAGIC: &[u8; 8] = b"emptcpl1";
/// Largest block of a bulk transfer, in bytes.
const BLOCK: usize = 64 * 1024;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The server sends in bulk, until either limit is reached.
    Download {
        /// Bytes; `u64::MAX` for no limit.
        bytes: u64,
        /// Time; zero for no limit.
        time: Duration,
    },
    /// The client sends in bulk.
    Upload,
    /// The client sends a request, the server a response.
    Exchange {
        /// Bytes of the request, the header included.
        request: u64,
        /// Bytes of the response.
        response: u64,
    },
}

/// The first bytes of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the client asks for.
    pub operation: Operation,
    /// Seed of the payload.
    pub seed: u64,
    /// Where in the stream the payload begins, in bytes.
    pub position: u64,
}

impl Header {
    /// As sent.
    pub fn encode(&self) -> [u8; HEADER] {
        let (code, a, b) = match self.operation {
            Operation::Download { bytes, time } => (
                1u64,
                bytes,
                u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            ),
            Operation::Upload => (2, 0, 0),
            Operation::Exchange { request, response } => (3, request, response),
        };
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(MAGIC);
        let words = [code, self.seed, self.position, a, b];
        for (to, word) in out[8..].chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        out
    }

    /// As received.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self> {
        let word = |n: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[8 * n..8 * n + 8]);
            u64::from_be_bytes(word)
        };
        if &bytes[..8] != MAGIC {
            bail!("the peer does not speak the protocol of emptcp-lab");
        }
        let operation = match word(1) {
            1 => Operation::Download {
                bytes: word(4),
                time: Duration::from_millis(word(5)),
            },
            2 => Operation::Upload,
            3 => Operation::Exchange {
                request: word(4),
                response: word(5),
            },
            other => bail!("unknown operation {other}"),
        };
        Ok(Self {
            operation,
            seed: word(2),
            position: word(3),
        })
    }

    /// Reads a header; `None` when the peer closed the connection before it.
    pub fn receive(stream: &mut impl Read) -> Result<Option<Self>> {
        let mut bytes = [0; HEADER];
        let mut length = 0;
        while length < HEADER {
            match stream.read(&mut bytes[length..]) {
                Ok(0) if length == 0 => return Ok(None),
                Ok(0) => bail!("the connection ended within a header"),
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read a header"),
            }
        }
        Self::decode(&bytes).map(Some)
    }
}

/// What the receiver of a bulk transfer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Bytes of payload received.
    pub bytes: u64,
    /// Position of the first wrong byte.
    pub wrong_at: Option<u64>,
}

impl Verdict {
    /// Sends it to the sender of the payload.
    pub fn send(&self, stream: &mut impl Write) -> io::Result<()> {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.bytes.to_be_bytes());
        out[8..].copy_from_slice(&self.wrong_at.unwrap_or(u64::MAX).to_be_bytes());
        stream.write_all(&out)
    }

    /// Receives it from the receiver of the payload.
    pub fn receive(stream: &mut impl Read) -> io::Result<Self> {
        let (mut bytes, mut wrong_at) = ([0; 8], [0; 8]);
        stream.read_exact(&mut bytes)?;
        stream.read_exact(&mut wrong_at)?;
        let wrong_at = u64::from_be_bytes(wrong_at);
        Ok(Self {
            bytes: u64::from_be_bytes(bytes),
            wrong_at: (wrong_at != u64::MAX).then_some(wrong_at),
        })
    }

    /// Fails unless `sent` bytes arrived as they were sent.
    pub fn check(&self, sent: u64) -> Result<()> {
        if let Some(position) = self.wrong_at {
            bail!("PAYLOAD MISMATCH: the byte at {position} arrived changed");
        }
        if self.bytes != sent {
            bail!(
                "PAYLOAD MISMATCH: {sent} bytes were sent, {} arrived",
                self.bytes
            );
        }
        Ok(())
    }
}

/// Sends payload in bulk until either limit is reached; returns the bytes sent.
pub fn send_bulk(
    stream: &mut impl Write,
    payload: &mut Payload,
    bytes: u64,
    time: Duration,
) -> io::Result<u64> {
    let end = (!time.is_zero()).then(|| Instant::now() + time);
    let mut sent = 0;
    let mut block = Vec::with_capacity(4 + BLOCK);
    while sent < bytes && end.is_none_or(|end| Instant::now() < end) {
        let wanted = usize::try_from(bytes - sent).unwrap_or(BLOCK).min(BLOCK);
        let piece = payload.peek(wanted);
        let length = piece.len();
        block.clear();
        block.extend_from_slice(&(length as u32).to_be_bytes());
        block.extend_from_slice(piece);
        stream.write_all(&block)?;
        payload.advance(length);
        sent += length as u64;
    }
    block.clear();
    block.extend_from_slice(&0u32.to_be_bytes());
    block.extend_from_slice(&sent.to_be_bytes());
    stream.write_all(&block)?;
    Ok(sent)
}

/// Receives payload in bulk and compares it; `progress` hears of every piece.
///
/// After a mismatch the lengths of further blocks cannot be trusted, so the verdict is returned
/// at once.
pub fn receive_bulk(
    stream: &mut impl Read,
    payload: &mut Payload,
    mut progress: impl FnMut(u64),
) -> Result<Verdict> {
    let mut buffer = vec![0; BLOCK];
    let mut bytes = 0;
    loop {
        let mut length = [0; 4];
        stream
            .read_exact(&mut length)
            .context("the transfer ended early")?;
        let mut left = u32::from_be_bytes(length) as usize;
        if left > BLOCK {
            return Ok(Verdict {
                bytes,
                wrong_at: Some(bytes),
            });
        }
        if left == 0 {
            let mut total = [0; 8];
            stream
                .read_exact(&mut total)
                .context("the transfer ended early")?;
            let total = u64::from_be_bytes(total);
            return Ok(Verdict {
                bytes,
                wrong_at: (total != bytes).then_some(bytes),
            });
        }
        while left > 0 {
            let piece = match stream.read(&mut buffer[..left]) {
                Ok(0) => bail!("the transfer ended early, after {bytes} bytes"),
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("the transfer ended early, after {bytes} bytes"));
                }
            };
            if let Err(Mismatch { position }) = payload.check(&buffer[..piece]) {
                return Ok(Verdict {
                    bytes,
                    wrong_at: Some(position),
                });
            }
            bytes += piece as u64;
            left -= piece;
            progress(piece as u64);
        }
    }
}

/// Sends exactly `bytes` of payload.
pub fn send_plain(
    stream: &mut impl Write,
    payload: &mut Payload,
    mut bytes: u64,
) -> io::Result<()> {
    while bytes > 0 {
        let piece = payload.peek(usize::try_from(bytes).unwrap_or(BLOCK).min(BLOCK));
        let length = piece.len();
        stream.write_all(piece)?;
        payload.advance(length);
        bytes -= length as u64;
    }
    Ok(())
}

/// Receives exactly `bytes` of payload and compares them.
pub fn receive_plain(stream: &mut impl Read, payload: &mut Payload, mut bytes: u64) -> Result<()> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(BLOCK).clamp(1, BLOCK)];
    while bytes > 0 {
        let wanted = usize::try_from(bytes).unwrap_or(BLOCK).min(buffer.len());
        let piece = match stream.read(&mut buffer[..wanted]) {
            Ok(0) => bail!("the connection ended {bytes} bytes early"),
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("the transfer ended early"),
        };
        if let Err(Mismatch { position }) = payload.check(&buffer[..piece]) {
            bail!("PAYLOAD MISMATCH: the byte at {position} arrived changed");
        }
        bytes -= piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        let operations = [
            Operation::Download {
                bytes: u64::MAX,
                time: Duration::from_millis(1500),
            },
            Operation::Upload,
            Operation::Exchange {
                request: 100,
                response: 100_000,
            },
        ];
        for operation in operations {
            let header = Header {
                operation,
                seed: 1 << 60,
                position: 77,
            };
            assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        }
        assert!(Header::decode(&[0; HEADER]).is_err());
        assert!(Header::receive(&mut &[][..]).unwrap().is_none());
        assert!(Header::receive(&mut &MAGIC[..]).is_err());
    }

    fn bulk(change: impl FnOnce(&mut Vec<u8>)) -> Result<Verdict> {
        let mut wire = Vec::new();
        let sent = send_bulk(&mut wire, &mut Payload::new(9, 0), 500_000, Duration::ZERO).unwrap();
        assert_eq!(sent, 500_000);
        change(&mut wire);
        receive_bulk(&mut wire.as_slice(), &mut Payload::new(9, 0), |_| ())
    }

    #[test]
    fn bulk_arrives() {
        let verdict = bulk(|_| ()).unwrap();
        assert_eq!(
            verdict,
            Verdict {
                bytes: 500_000,
                wrong_at: None
            }
        );
        assert!(verdict.check(500_000).is_ok());
        assert!(verdict.check(500_001).is_err());
        let mut wire = Vec::new();
        verdict.send(&mut wire).unwrap();
        assert_eq!(Verdict::receive(&mut wire.as_slice()).unwrap(), verdict);
    }

    #[test]
    fn bulk_finds_damage() {
        let verdict = bulk(|wire| wire[1000] ^= 4).unwrap();
        assert_eq!(verdict.wrong_at, Some(996));
        assert!(verdict.check(500_000).is_err());
        assert!(bulk(|wire| wire[0] = 0xff).unwrap().wrong_at.is_some());
        assert!(bulk(|wire| wire.truncate(1000)).is_err());
        let total = |wire: &mut Vec<u8>| *wire.last_mut().unwrap() ^= 1;
        assert!(bulk(total).unwrap().wrong_at.is_some());
    }

    #[test]
    fn plain_payload_is_compared() {
        let mut wire = Vec::new();
        send_plain(&mut wire, &mut Payload::new(3, 10), 100_000).unwrap();
        assert_eq!(wire.len(), 100_000);
        let check =
            |wire: &[u8], bytes| receive_plain(&mut &wire[..], &mut Payload::new(3, 10), bytes);
        assert!(check(&wire, 100_000).is_ok());
        assert!(check(&wire, 100_001).is_err());
        wire[99_999] ^= 1;
        assert!(
            check(&wire, 100_000)
                .unwrap_err()
                .to_string()
                .contains("MISMATCH")
        );
    }
}
