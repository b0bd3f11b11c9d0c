//! The program's memory for packets, and how the controller reaches it.

use arrayvec::ArrayVec;
use clap::ValueEnum;
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::dma::{Dma, DmaError, DmaMemory, MemoryPart, ScatterMap, StreamMap};
use spapr_iommu::permission::Permission;
use std::error::Error;

/// Bytes at the start of a packet that lie elsewhere when the packet is scattered: its headers.
const HEAD: u64 = 34;
/// Room for these.
const HEAD_SLOT: u64 = 64;
/// Distance from these to the rest of the packets, a page or more on any host, so that both are
/// mapped separately.
const APART: u64 = 64 << 10;

/// When memory is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Maps {
    /// Each packet before it is sent, each buffer before it is posted
    Each,
    /// As with `each`, with packets in two pieces
    Scattered,
    /// All of it, once
    Once,
}

/// Memory for packets, in slots.
#[derive(Debug)]
pub(crate) struct Buffers {
    // Dropped before the memory.
    whole: Option<StreamMap>,
    memory: DmaMemory,
    maps: Maps,
    permission: Permission,
    slot: u64,
    /// Start of the slots; the heads of scattered packets lie before it.
    first: u64,
    /// Numbers of unused slots.
    free: Vec<u64>,
}

/// A part of a slot that the controller reaches until this is dropped.
#[derive(Debug)]
pub(crate) struct Mapped {
    slot: u64,
    #[allow(dead_code, reason = "dropping it is what unmaps")]
    map: Map,
}

#[derive(Debug)]
#[allow(dead_code, reason = "dropping it is what unmaps")]
enum Map {
    Stream(StreamMap),
    Scatter(ScatterMap),
    /// Maps all of the memory.
    Whole,
}

impl Buffers {
    /// Allocates and registers `count` slots; the controller may use them as `permission` says.
    pub(crate) fn new(
        dma: &Dma,
        count: usize,
        slot: u64,
        maps: Maps,
        permission: Permission,
    ) -> Result<Self, DmaError> {
        let first = (count as u64 * HEAD_SLOT).next_multiple_of(APART) + APART;
        let memory = dma.memory(first + count as u64 * slot)?;
        let whole = (maps == Maps::Once).then(|| memory.map(0, memory.size(), permission)).transpose()?;
        Ok(Self { whole, memory, maps, permission, slot, first, free: (0..count as u64).rev().collect() })
    }

    /// Takes an unused slot.
    pub(crate) fn take(&mut self) -> Option<u64> {
        self.free.pop()
    }

    /// Returns a slot, which dropping its map has unmapped.
    pub(crate) fn give_back(&mut self, mapped: Mapped) -> u64 {
        let slot = mapped.slot;
        drop(mapped);
        self.free.push(slot);
        slot
    }

    /// Copies a packet into a slot.
    pub(crate) fn write(&self, slot: u64, packet: &[u8]) -> Result<(), Box<dyn Error>> {
        let mut rest = packet;
        for part in self.parts(slot, packet.len() as u64) {
            let (now, after) = rest.split_at(part.len as usize);
            self.memory.write_bytes(part.offset, now)?;
            rest = after;
        }
        Ok(())
    }

    /// Reads what the controller has written to the beginning of a slot.
    pub(crate) fn read(&self, slot: u64, packet: &mut [u8]) -> Result<(), Box<dyn Error>> {
        Ok(self.memory.read_bytes(self.first + slot * self.slot, packet)?)
    }

    /// Makes the first `len` bytes of a slot visible to the controller; returns their bus
    /// addresses.
    pub(crate) fn map(&self, slot: u64, len: u64) -> Result<(Mapped, ArrayVec<IovaRange, 2>), Box<dyn Error>> {
        let parts = self.parts(slot, len);
        let (map, pieces) = match (&self.whole, &parts[..]) {
            (Some(whole), _) => {
                let start = whole.iova_range().start().0;
                let piece = |part: &MemoryPart| IovaRange::new(Iova(start + part.offset), part.len);
                (Map::Whole, parts.iter().map(piece).collect::<Result<_, _>>()?)
            }
            (None, [part]) => {
                let map = self.memory.map(part.offset, part.len, self.permission)?;
                let piece = map.iova_range();
                (Map::Stream(map), ArrayVec::from_iter([piece]))
            }
            (None, parts) => {
                let map = self.memory.map_parts(parts, self.permission)?;
                let pieces = map.iova_ranges().iter().copied().collect();
                (Map::Scatter(map), pieces)
            }
        };
        Ok((Mapped { slot, map }, pieces))
    }

    /// Returns where the first `len` bytes of a slot lie.
    fn parts(&self, slot: u64, len: u64) -> ArrayVec<MemoryPart, 2> {
        let offset = self.first + slot * self.slot;
        if self.maps == Maps::Scattered && self.permission == Permission::Read {
            let head = MemoryPart { offset: slot * HEAD_SLOT, len: HEAD.min(len) };
            let rest = MemoryPart { offset: offset + HEAD, len: len.saturating_sub(HEAD) };
            return [head, rest].into_iter().filter(|part| part.len > 0).collect();
        }
        ArrayVec::from_iter([MemoryPart { offset, len }])
    }
}
