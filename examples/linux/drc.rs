//! Connectors (DRC) of what the guest takes and gives back while it runs: blocks of RAM. The guest
//! says so by RTAS (LoPAR, 13.5).

use super::blocks;
use super::connector::Told;
use super::fdt::Fdt;
use super::machine::Machine;
use super::memory::BLOCK;
use parking_lot::Mutex;
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::{GuestMemory, RemoveMemoryError};
use spapr_iommu::uapi::papr::rtas::{HARDWARE_ERROR, PARAMETER_ERROR, SUCCESS};
use std::collections::BTreeMap;
use std::error::Error;

const SET_INDICATOR: u32 = 0x2050;
const GET_SENSOR: u32 = 0x2051;
const CONFIGURE: u32 = 0x2052;

/// The calls.
pub(crate) const CALLS: [(u32, &str); 3] =
    [(SET_INDICATOR, "set-indicator"), (GET_SENSOR, "get-sensor-state"), (CONFIGURE, "ibm,configure-connector")];

/// Index of the first block's connector: the high bits say that it is memory.
pub(crate) const MEMORY: u32 = 0x8000_0000;

/// Indicators: whether the guest is cut off from what is connected, and whether it may connect it.
const ISOLATION: u32 = 9001;
const ALLOCATION: u32 = 9003;

/// The sensor of whether something is there, and what it says.
const ENTITY_SENSE: u32 = 9003;
const PRESENT: u32 = 1;
const UNUSABLE: u32 = 2;

/// Status of a guest that isolates what its TCEs lead to.
const OUTSTANDING_TRANSLATION: i32 = -9001;

/// All connectors that the guest has touched, by index.
#[derive(Default)]
pub(crate) struct Connectors(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    states: BTreeMap<u32, State>,
    tally: Tally,
}

#[derive(Default)]
struct State {
    usable: bool,
    connected: bool,
    /// Nodes of the device tree that the guest is asking for.
    told: Option<Told>,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) plugged: u32,
    pub(crate) unplugged: u32,
    /// Where the memory that is locked did not change as it had to.
    pub(crate) wrong: Vec<String>,
}

/// Answers a call with its status and a value; `None` if it is another's.
pub(crate) fn answer(machine: &Machine, token: u32, args: &[u32]) -> Option<[u32; 2]> {
    if !CALLS.iter().any(|(known, _)| *known == token) {
        return None;
    }
    let shared = &mut *machine.connectors.0.lock();
    let (status, value) = match (token, args) {
        (SET_INDICATOR, &[indicator, index, state]) => (shared.set(machine, indicator, index, state), 0),
        (GET_SENSOR, &[ENTITY_SENSE, index]) => match shared.state(machine, index) {
            Some(state) => (SUCCESS, if state.usable { PRESENT } else { UNUSABLE }),
            None => (PARAMETER_ERROR, 0),
        },
        (CONFIGURE, &[area, _]) => (shared.configure(machine, GuestAddr(area.into())), 0),
        _ => (PARAMETER_ERROR, 0),
    };
    Some([status.cast_unsigned(), value])
}

impl Connectors {
    /// Returns what happened until now.
    pub(crate) fn tally(&self) -> Tally {
        self.0.lock().tally.clone()
    }

    /// Brings everything back to how it was at first. No processor runs, and there are no TCEs.
    pub(crate) fn reset(&self, machine: &Machine) -> Result<(), Box<dyn Error>> {
        let shared = &mut *self.0.lock();
        let states = std::mem::take(&mut shared.states);
        let mut connected = states.into_iter().filter(|(_, state)| state.connected);
        connected.try_for_each(|(index, _)| shared.disconnect(machine, index))
    }
}

impl Shared {
    /// Returns the state of a connector; `None` if there is none.
    fn state(&mut self, machine: &Machine, index: u32) -> Option<&mut State> {
        let block = index.checked_sub(MEMORY).filter(|block| *block < machine.ram.blocks());
        block.map(|_| self.states.entry(index).or_default())
    }

    /// `set-indicator`.
    fn set(&mut self, machine: &Machine, indicator: u32, index: u32, value: u32) -> i32 {
        let Some(state) = self.state(machine, index) else { return PARAMETER_ERROR };
        let on = value == 1;
        let done = match indicator {
            _ if value > 1 => return PARAMETER_ERROR,
            ALLOCATION if !state.connected => {
                state.usable = on;
                Ok(())
            }
            ISOLATION if state.usable && on != state.connected => {
                state.told = None;
                if on { self.connect(machine, index) } else { self.disconnect(machine, index) }
            }
            ISOLATION if state.usable => Ok(()),
            _ => return PARAMETER_ERROR,
        };
        let Err(error) = done else { return SUCCESS };
        eprintln!("connector {index:#x} stays as it is: {error}");
        match error.downcast_ref() {
            Some(RemoveMemoryError::Mapped { .. }) => OUTSTANDING_TRANSLATION,
            _ => HARDWARE_ERROR,
        }
    }

    fn connect(&mut self, machine: &Machine, index: u32) -> Result<(), Box<dyn Error>> {
        let before = machine.locked()?;
        let closed = machine.gate.close(&machine.cpus);
        machine.ram.plug(&machine.vm, &machine.iommu, index - MEMORY)?;
        drop(closed);
        self.states.entry(index).or_default().connected = true;
        self.tally.plugged += 1;
        self.compare(machine, "plugged", index, machine.locked()?.saturating_sub(before));
        Ok(())
    }

    fn disconnect(&mut self, machine: &Machine, index: u32) -> Result<(), Box<dyn Error>> {
        let before = machine.locked()?;
        let closed = machine.gate.close(&machine.cpus);
        machine.ram.unplug(&machine.vm, &machine.iommu, index - MEMORY)?;
        drop(closed);
        self.states.entry(index).or_default().connected = false;
        self.tally.unplugged += 1;
        self.compare(machine, "unplugged", index, before.saturating_sub(machine.locked()?));
        Ok(())
    }

    /// Compares how much more or less is locked with the size of a block.
    fn compare(&mut self, machine: &Machine, what: &str, index: u32, changed: u64) {
        let tces = machine.tces();
        let line = format!("{what} block {}: locked memory changed by {changed} bytes, {tces} TCEs", index - MEMORY);
        println!("{line}");
        if changed != BLOCK {
            self.tally.wrong.push(line);
        }
    }

    /// `ibm,configure-connector`: the area begins with the index.
    fn configure(&mut self, machine: &Machine, area: GuestAddr) -> i32 {
        let memory = machine.ram.memory().as_ref();
        let mut index = [0; 4];
        if memory.read(area, &mut index).is_err() {
            return PARAMETER_ERROR;
        }
        let index = u32::from_be_bytes(index);
        let Some(state) = self.state(machine, index).filter(|state| state.connected) else { return PARAMETER_ERROR };
        let told = state.told.get_or_insert_with(|| {
            let mut tree = Fdt::default();
            blocks::block(&mut tree, &machine.ram, index - MEMORY);
            Told::new(&tree)
        });
        let status = told.next(memory, area).unwrap_or(PARAMETER_ERROR);
        if status <= 0 {
            state.told = None;
        }
        status
    }
}
