//! Data of a command in memory, described by PRP entries: NVM Express base specification 2.0,
//! section 4.1.1.

use super::command::{Command, Failure, Status};
use crate::addr::Iova;
use crate::model::pci::{Bus, BusError};

/// Bytes in an entry.
const ENTRY: u64 = 8;

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Stuck => Self::Stuck,
            _ => Status::DATA_TRANSFER.into(),
        }
    }
}

/// Returns where `len` bytes of data lie: bus addresses and lengths, in pages of `page` bytes.
fn parts(command: &Command, len: u64, page: u64, bus: &mut Bus<'_>) -> Result<Vec<(u64, u64)>, Failure> {
    let [first, second] = command.prp.map(|entry| entry.get());
    if first % 4 != 0 {
        return Err(Status::PRP_OFFSET.into());
    }
    let mut left = len;
    let mut parts = Vec::new();
    let mut take = |at: u64, left: &mut u64| {
        let now = (page - at % page).min(*left);
        parts.push((at, now));
        *left -= now;
    };
    take(first, &mut left);
    if left == 0 {
        return Ok(parts);
    }
    if left <= page {
        if second % page != 0 {
            return Err(Status::PRP_OFFSET.into());
        }
        take(second, &mut left);
        return Ok(parts);
    }
    // A list, of one or more pages: the last entry of a page leads to the next if more are needed.
    let mut list = second;
    while left > 0 {
        if list % ENTRY != 0 {
            return Err(Status::PRP_OFFSET.into());
        }
        let room = (page - list % page) / ENTRY;
        let needed = left.div_ceil(page);
        let here = if needed > room { room } else { needed };
        let mut bytes = vec![0; (here * ENTRY) as usize];
        bus.read(Iova(list), &mut bytes)?;
        let entries = bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry));
        for (number, entry) in (1..).zip(entries) {
            if number == room && needed > room {
                if entry % page != 0 {
                    return Err(Status::PRP_OFFSET.into());
                }
                list = entry;
                break;
            }
            if entry % page != 0 {
                return Err(Status::PRP_OFFSET.into());
            }
            take(entry, &mut left);
        }
    }
    Ok(parts)
}

/// Writes `data` to the memory of a command.
pub(super) fn write(command: &Command, data: &[u8], page: u64, bus: &mut Bus<'_>) -> Result<(), Failure> {
    let mut rest = data;
    for (at, len) in parts(command, data.len() as u64, page, bus)? {
        let (now, later) = rest.split_at(len as usize);
        bus.write(Iova(at), now)?;
        rest = later;
    }
    Ok(())
}

/// Reads `len` bytes from the memory of a command.
pub(super) fn read(command: &Command, len: u64, page: u64, bus: &mut Bus<'_>) -> Result<Vec<u8>, Failure> {
    let mut data = vec![0; len as usize];
    let mut rest = &mut data[..];
    for (at, len) in parts(command, len, page, bus)? {
        let (now, later) = rest.split_at_mut(len as usize);
        bus.read(Iova(at), now)?;
        rest = later;
    }
    Ok(data)
}
