//! Connectors (DRC) of memory and devices that the guest takes and returns while it runs, by RTAS
//! (LoPAR, chapter 13).

use super::connector::NodeWalk;
use super::machine::Machine;
use super::plug::{Entity, Tally};
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

/// Indicators: whether the guest is isolated from the entity, and whether it may have it.
const ISOLATION: u32 = 9001;
const ALLOCATION: u32 = 9003;

/// The sensor that says whether the guest may have the entity, and its values.
const ENTITY_SENSE: u32 = 9003;
const PRESENT: u32 = 1;
const UNUSABLE: u32 = 2;

/// Status for a guest that isolates memory into which its TCEs lead.
const OUTSTANDING_TRANSLATION: i32 = -9001;

/// All connectors.
#[derive(Default)]
pub(crate) struct Connectors(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    /// Connectors that the guest has used.
    states: BTreeMap<Entity, State>,
    tally: Tally,
}

struct State {
    usable: bool,
    connected: bool,
    /// Nodes of the device tree that the guest is reading.
    nodes: Option<NodeWalk>,
}

/// Answers a call with its status and a value; `None` if the call belongs to another part.
pub(crate) fn answer(machine: &Machine, token: u32, args: &[u32]) -> Option<[u32; 2]> {
    if !CALLS.iter().any(|(known, _)| *known == token) {
        return None;
    }
    let shared = &mut *machine.connectors.0.lock();
    let (status, value) = match (token, args) {
        (SET_INDICATOR, &[indicator, index, value @ 0..=1]) => (shared.set(machine, indicator, index, value == 1), 0),
        (GET_SENSOR, &[ENTITY_SENSE, index]) => match Entity::of(machine, index) {
            Some(what) => (SUCCESS, if shared.state(what).usable { PRESENT } else { UNUSABLE }),
            None => (PARAMETER_ERROR, 0),
        },
        (CONFIGURE, &[area, _]) => (shared.configure(machine, GuestAddr(area.into())), 0),
        _ => (PARAMETER_ERROR, 0),
    };
    Some([status.cast_unsigned(), value])
}

impl Connectors {
    /// Returns what has happened so far.
    pub(crate) fn tally(&self) -> Tally {
        self.0.lock().tally.clone()
    }

    /// Resets everything to the initial state. No processor may run, and no TCE may exist.
    pub(crate) fn reset(&self, machine: &Machine) -> Result<(), Box<dyn Error>> {
        let Shared { states, tally } = &mut *self.0.lock();
        for (what, state) in std::mem::take(states) {
            match (state.connected, what.is_there_at_boot()) {
                (true, false) => tally.unplug(machine, what)?,
                (false, true) => tally.plug(machine, what)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Shared {
    fn state(&mut self, what: Entity) -> &mut State {
        let there = what.is_there_at_boot();
        self.states.entry(what).or_insert(State { usable: there, connected: there, nodes: None })
    }

    /// `set-indicator`.
    fn set(&mut self, machine: &Machine, indicator: u32, index: u32, on: bool) -> i32 {
        let Some(what) = Entity::of(machine, index) else { return PARAMETER_ERROR };
        let state = self.state(what);
        let changed = match indicator {
            ALLOCATION if !state.connected => {
                state.usable = on;
                return SUCCESS;
            }
            ISOLATION if state.usable && on == state.connected => return SUCCESS,
            ISOLATION if state.usable && on => self.tally.plug(machine, what),
            ISOLATION if state.usable => self.tally.unplug(machine, what),
            _ => return PARAMETER_ERROR,
        };
        let state = self.state(what);
        state.nodes = None;
        let Err(error) = changed else {
            state.connected = on;
            return SUCCESS;
        };
        eprintln!("{what} stays as it is: {}", super::chain(error.as_ref()));
        match error.downcast_ref() {
            Some(RemoveMemoryError::Mapped { .. }) => OUTSTANDING_TRANSLATION,
            _ => HARDWARE_ERROR,
        }
    }

    /// `ibm,configure-connector`, whose work area starts with the index.
    fn configure(&mut self, machine: &Machine, area: GuestAddr) -> i32 {
        let memory = machine.ram.memory().as_ref();
        let mut index = [0; 4];
        let read = memory.read(area, &mut index).ok();
        let what = read.and_then(|()| Entity::of(machine, u32::from_be_bytes(index)));
        let Some(what) = what.filter(|what| self.state(*what).connected) else { return PARAMETER_ERROR };
        let state = self.state(what);
        let nodes = state.nodes.get_or_insert_with(|| NodeWalk::new(&what.nodes(machine)));
        let status = nodes.next(memory, area).unwrap_or(PARAMETER_ERROR);
        if status <= 0 {
            state.nodes = None;
        }
        status
    }
}
