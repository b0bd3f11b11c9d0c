//! Tracks whether the BARs of a PCI device answer.
//!
//! The kernel ends a process with SIGBUS if it touches a mapped BAR while memory decode is off or
//! the device sleeps (`vfio_pci_mmap_fault`), and one write to the configuration space does either.
//! So such writes and accesses to mapped BARs exclude each other here, and a BAR that would not
//! answer gives an error.

use crate::host::{Errno, Region};
use parking_lot::{RwLock, RwLockReadGuard};

const COMMAND: u64 = 4;
const MEMORY: u8 = 2;
const STATUS: u64 = 6;
const HAS_CAPABILITIES: u8 = 0x10;
const FIRST_CAPABILITY: u64 = 0x34;
const POWER: u8 = 0x01;
/// Offset of the power state in its capability, and the value of its low bits that powers the
/// device off.
const CONTROL: u64 = 4;
const D3HOT: u8 = 3;
/// No list of capabilities is longer: 192 bytes hold no more.
const MAX_CAPABILITIES: usize = 48;

/// The state that all files of one device share.
#[derive(Debug, Default)]
pub(super) struct Decode(RwLock<State>);

#[derive(Debug)]
struct State {
    /// Known from the device itself.
    learned: bool,
    memory: bool,
    asleep: bool,
    /// Where the power state is.
    power: Option<u64>,
}

impl Default for State {
    /// A device other than PCI always answers.
    fn default() -> Self {
        Self { learned: false, memory: true, asleep: false, power: None }
    }
}

impl Decode {
    /// Reads the state of a device that was just opened from its configuration space.
    pub(super) fn learn(&self, config: &dyn Region) -> Result<(), Errno> {
        let mut state = self.0.write();
        if state.learned {
            return Ok(());
        }
        let power = power(config)?;
        let asleep = match power {
            Some(at) => byte(config, at)? & D3HOT == D3HOT,
            None => false,
        };
        *state = State { learned: true, memory: byte(config, COMMAND)? & MEMORY != 0, asleep, power };
        Ok(())
    }

    /// Keeps BARs answering until the guard goes; `EIO` when they do not.
    pub(super) fn answering(&self) -> Result<impl Drop + use<'_>, Errno> {
        let state: RwLockReadGuard<'_, State> = self.0.read();
        if state.memory && !state.asleep { Ok(state) } else { Err(Errno::EIO) }
    }

    /// Writes to the configuration space while no BAR is accessed.
    fn write(&self, config: &dyn Region, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let mut state = self.0.write();
        let result = config.write(offset, data);
        let written = |at: u64| data.get(usize::try_from(at.checked_sub(offset)?).ok()?).copied();
        // A write that failed may have arrived, so the worse is assumed.
        if let Some(command) = written(COMMAND) {
            let on = command & MEMORY != 0;
            state.memory = on && (state.memory || result.is_ok());
        }
        if let Some(control) = state.power.and_then(written) {
            let off = control & D3HOT == D3HOT;
            state.asleep = off || (state.asleep && result.is_err());
        }
        result
    }
}

/// Returns where the power state is, if the device has one.
fn power(config: &dyn Region) -> Result<Option<u64>, Errno> {
    if byte(config, STATUS)? & HAS_CAPABILITIES == 0 {
        return Ok(None);
    }
    let mut next = byte(config, FIRST_CAPABILITY)? & !3;
    for _ in 0..MAX_CAPABILITIES {
        let at = u64::from(next);
        if next < 0x40 {
            break;
        }
        if byte(config, at)? == POWER {
            return Ok(Some(at + CONTROL));
        }
        next = byte(config, at + 1)? & !3;
    }
    Ok(None)
}

fn byte(config: &dyn Region, at: u64) -> Result<u8, Errno> {
    let mut byte = [0];
    config.read(at, &mut byte)?;
    Ok(byte[0])
}

/// The configuration space of a PCI device.
pub(super) struct ConfigRegion {
    pub(super) file: Box<dyn Region>,
    pub(super) device: std::sync::Arc<super::files::OpenFile>,
}

impl Region for ConfigRegion {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.file.read(offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.device.decode.write(self.file.as_ref(), offset, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PageShift;
    use crate::host::Shared;

    /// A configuration space with a power state at 0x54, as memory.
    fn config(command: u8) -> Shared {
        let config = Shared::heap(256, PageShift::P4K).unwrap();
        config.write(COMMAND, &[command, 0, HAS_CAPABILITIES, 0]).unwrap();
        config.write(FIRST_CAPABILITY, &[0x40]).unwrap();
        config.write(0x40, &[0x05, 0x50]).unwrap();
        config.write(0x50, &[POWER, 0]).unwrap();
        config
    }

    #[test]
    fn bars_answer_while_memory_decode_is_on_and_the_device_awake() {
        let config = config(0);
        let decode = Decode::default();
        decode.learn(&config).unwrap();
        let answers = || decode.answering().is_ok();
        let write = |at, data: &[u8]| decode.write(&config, at, data).unwrap();
        assert!(!answers(), "as the device is found");
        for (at, data, expected) in [
            (4, &[6, 0][..], true),
            (5, &[1], true),
            (3, &[0, 0], false),
            (0, &[0, 0, 0, 0, 2], true),
            (0x54, &[3, 0], false),
            (4, &[0], false),
            (4, &[2], false),
            (0x50, &[1, 0, 0, 0, 2], true),
        ] {
            write(at, data);
            assert_eq!(answers(), expected, "{data:?} at {at:#x}");
        }
    }

    #[test]
    fn a_write_that_fails_is_taken_for_the_worse() {
        struct Broken(Shared);
        impl Region for Broken {
            fn size(&self) -> u64 {
                256
            }
            fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
                self.0.read(offset, data)
            }
            fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
                Err(Errno::EFAULT)
            }
        }
        let config = Broken(config(2));
        let decode = Decode::default();
        decode.learn(&config).unwrap();
        assert!(decode.answering().is_ok());
        for command in [0, 2] {
            assert_eq!(decode.write(&config, 4, &[command]), Err(Errno::EFAULT));
            assert!(decode.answering().is_err());
        }
    }

    #[test]
    fn a_list_of_capabilities_that_is_a_circle_ends() {
        let config = config(2);
        config.write(0x50, &[0x05, 0x40]).unwrap();
        let decode = Decode::default();
        decode.learn(&config).unwrap();
        assert!(decode.answering().is_ok());
    }
}
