//! Three channels over one console that firmware and kernel also write to.
//!
//! A powernv machine has a single serial line. Firmware and kernel print 7-bit text on it whenever
//! they like, also in the middle of a line of ours. So every byte sent here has its high bit set
//! and carries four bits of payload, the channel, and which half of the payload byte it is:
//!
//! ```text
//!   bit   7      6 5      4            3 2 1 0
//!         1      channel  second half  payload
//! ```
//!
//! The receiver can take the two streams apart at any byte, without framing or checksums.

use serde::{Deserialize, Serialize};

/// The channel of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Standard output of a command.
    Output,
    /// Standard error of a command.
    Error,
    /// [`Report`]s, one JSON object per line.
    Report,
}

impl Channel {
    fn bits(self) -> u8 {
        match self {
            Channel::Output => 0,
            Channel::Error => 1,
            Channel::Report => 2,
        }
    }

    fn from_bits(bits: u8) -> Option<Channel> {
        match bits {
            0 => Some(Channel::Output),
            1 => Some(Channel::Error),
            2 => Some(Channel::Report),
            _ => None,
        }
    }
}

/// Encodes bytes for the console.
pub fn encode(channel: Channel, payload: &[u8]) -> Vec<u8> {
    let lead = 0x80 | channel.bits() << 5;
    payload.iter().flat_map(|byte| [lead | byte >> 4, lead | 0x10 | byte & 0xf]).collect()
}

/// The meaning of a console byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Printed by firmware or kernel.
    Noise(u8),
    /// Sent by [`encode`].
    Payload(Channel, u8),
}

/// Takes a console stream apart.
#[derive(Debug, Default)]
pub struct Decoder {
    /// First halves that are waiting for their second, by channel.
    pending: [Option<u8>; 4],
}

impl Decoder {
    /// Takes the next byte of the console.
    pub fn push(&mut self, byte: u8) -> Option<Decoded> {
        if byte & 0x80 == 0 {
            return Some(Decoded::Noise(byte));
        }
        let bits = byte >> 5 & 3;
        let pending = &mut self.pending[usize::from(bits)];
        if byte & 0x10 == 0 {
            *pending = Some(byte << 4);
            return None;
        }
        let high = pending.take()?;
        Some(Decoded::Payload(Channel::from_bits(bits)?, high | byte & 0xf))
    }
}

/// What the first process reports to the host, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The machine is set up. One line per fact worth seeing.
    Ready(Vec<String>),
    /// Free memory before the first command.
    MemoryBefore {
        /// MemFree after caches were dropped.
        free_kib: u64,
    },
    /// A command ended.
    Exited {
        /// Index among the commands.
        command: usize,
        /// Its exit status; 128 + n when signal n ended it.
        status: u8,
        /// How long it ran, by the machine's clock.
        milliseconds: u64,
    },
    /// Free memory after the last command.
    MemoryAfter {
        /// MemFree after caches were dropped.
        free_kib: u64,
    },
    /// A line of the kernel log that reports a fault, or that follows such a line.
    KernelLog(String),
    /// The first process itself failed.
    Failed(String),
    /// Nothing follows; the machine powers off.
    Finished,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Vec<Decoded> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|&b| decoder.push(b)).collect()
    }

    #[test]
    fn every_byte_survives_on_every_channel() {
        for channel in [Channel::Output, Channel::Error, Channel::Report] {
            let all: Vec<u8> = (0..=255).collect();
            let expected: Vec<_> = all.iter().map(|&b| Decoded::Payload(channel, b)).collect();
            let sent = encode(channel, &all);
            assert!(sent.iter().all(|b| b & 0x80 != 0));
            assert_eq!(decode(&sent), expected);
        }
    }

    #[test]
    fn noise_and_other_channels_may_cut_in_anywhere() {
        let output = encode(Channel::Output, b"ok");
        let error = encode(Channel::Error, b"no");
        let mut mixed = Vec::new();
        for (o, e) in output.iter().zip(&error) {
            mixed.extend([*o, b'!', *e]);
        }
        let decoded = decode(&mixed);
        let of = |wanted| -> Vec<u8> {
            decoded
                .iter()
                .filter_map(|d| match d {
                    Decoded::Payload(channel, byte) if *channel == wanted => Some(*byte),
                    _ => None,
                })
                .collect()
        };
        assert_eq!(of(Channel::Output), b"ok");
        assert_eq!(of(Channel::Error), b"no");
        let noise = decoded.iter().filter(|d| **d == Decoded::Noise(b'!'));
        assert_eq!(noise.count(), 4);
    }

    #[test]
    fn a_lost_half_costs_one_byte_only() {
        for lost in 0..2 {
            let mut sent = encode(Channel::Output, b"abc");
            sent.remove(lost);
            let expected = [Decoded::Payload(Channel::Output, b'b'), Decoded::Payload(Channel::Output, b'c')];
            assert_eq!(decode(&sent), expected);
        }
    }

    #[test]
    fn an_unknown_channel_is_dropped() {
        assert_eq!(decode(&[0xe1, 0xf2]), []);
    }
}
