//! The snapshot: what an inspection shows. Documents are JSON; addresses are hexadecimal strings,
//! because many readers keep numbers as floating point.

use super::MAX_ROWS;
use serde::{Deserialize, Serialize};

/// The version of the snapshot that this library writes.
pub const VERSION: u32 = 1;

/// Addresses as strings.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{value:#x}"))
    }

    pub(super) fn parse<E: Error>(text: &str) -> Result<u64, E> {
        let digits = text.strip_prefix("0x").ok_or_else(|| E::custom("an address starts with 0x"))?;
        u64::from_str_radix(digits, 16).map_err(E::custom)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        parse(&String::deserialize(from)?)
    }

    pub(super) mod option {
        use serde::{Deserialize, Deserializer, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(value: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => super::serialize(value, to),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
            Option::<String>::deserialize(from)?.map(|text| super::parse(&text)).transpose()
        }
    }
}

/// What a snapshot lists. All counts and sums are complete, whatever it lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Query {
    /// Maximum mapped runs of each space, up to [`MAX_ROWS`] over all spaces.
    pub maps: usize,
    /// Lists mapped runs from this bus address on.
    #[serde(with = "hex")]
    pub from: u64,
    /// Lists mapped runs of this space only.
    pub space: Option<String>,
    /// Maximum regions, up to [`MAX_ROWS`].
    pub regions: usize,
    /// Lists regions from this user address on.
    #[serde(with = "hex")]
    pub regions_from: u64,
}

impl Default for Query {
    fn default() -> Self {
        Self { maps: MAX_ROWS, from: 0, space: None, regions: MAX_ROWS, regions_from: 0 }
    }
}

/// The state of a process at one moment. Each table is of one moment; a long map is read in pieces,
/// between which it may change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`VERSION`].
    pub version: u32,
    /// The process.
    pub process: Process,
    /// The kernel it runs on.
    pub host: Option<HostRow>,
    /// Kernel calls of the process.
    pub calls: Vec<Calls>,
    /// Counts of registrations.
    pub registrations: Option<Registrations>,
    /// Registered memory.
    pub regions: Regions,
    /// Address spaces.
    pub spaces: Vec<Space>,
    /// Guests.
    pub guests: Vec<Guest>,
    /// Number of spaces and guests that are not listed.
    pub more_subjects: usize,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process ID.
    pub pid: u32,
    /// Process name.
    pub name: String,
}

/// The kernel below a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// `powernv` or `pseries`.
    pub platform: Option<String>,
    /// Page size of the kernel, bytes.
    pub page: u64,
    /// Locked memory; `None` if the kernel does not report it.
    pub locked: Option<Locked>,
}

/// Locked memory of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// Bytes locked.
    pub bytes: u64,
    /// `RLIMIT_MEMLOCK`, bytes; `None` for no limit.
    pub limit: Option<u64>,
    /// Whether the process may exceed the limit (`CAP_IPC_LOCK`).
    pub unlimited: bool,
}

/// How often the process made a kernel call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// The call's name in the kernel's headers.
    pub name: String,
    /// Number of calls.
    pub calls: u64,
    /// Number of those that returned an error number.
    pub failed: u64,
}

/// How often something was refused for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Code of the error.
    pub code: String,
    /// How often.
    pub count: u64,
}

/// Registrations since the registry was created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registrations {
    /// Number of successful calls.
    pub registers: u64,
    /// Bytes leased by them.
    pub registered: u64,
    /// Refused calls.
    pub refusals: Vec<Refusal>,
}

/// Registered memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regions {
    /// Number of kernel regions.
    pub count: u64,
    /// Bytes of all regions.
    pub bytes: u64,
    /// Regions by address: those that the query selects.
    pub rows: Vec<RegionRow>,
    /// Where the list continues, if it is cut: `regions_from` of the next query.
    #[serde(with = "hex::option")]
    pub next: Option<u64>,
}

/// A kernel region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRow {
    /// First user address.
    #[serde(with = "hex")]
    pub user: u64,
    /// Size in bytes.
    pub size: u64,
    /// The largest IOMMU page it can serve, bytes.
    pub max_iommu_page: u64,
    /// Largest number of leases on any part of it.
    pub leases: u32,
    /// Bytes of bus addresses that lead into it.
    pub mapped: u64,
    /// Number of containers it is registered in.
    pub containers: usize,
}

/// An address space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Name that the program gave it.
    pub name: String,
    /// Whether a kernel call for it took so long that groups and windows could not be read.
    pub busy: bool,
    /// Attached groups.
    pub groups: Vec<GroupRow>,
    /// State of the default window: `pending`, `live` or `gone`.
    pub default: String,
    /// Windows by bus address.
    pub windows: Vec<WindowRow>,
    /// Mapped runs.
    pub maps: Maps,
    /// Number of mappings that the kernel failed to remove.
    pub stale: usize,
    /// Counts of maps and unmaps.
    pub calls: Option<SpaceCalls>,
}

/// An attached group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Group number.
    pub group: u32,
    /// Number of its container in the space, from 0.
    pub container: usize,
}

/// A window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRow {
    /// First bus address.
    #[serde(with = "hex")]
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// IOMMU page, bytes.
    pub page: u64,
    /// Levels of its table; `None` while it is pending.
    pub levels: Option<u32>,
    /// `default`, `requested` or `demand`.
    pub origin: String,
    /// Bytes locked for its table, in each container.
    pub locked: u64,
    /// Bytes mapped in it.
    pub mapped: u64,
}

/// Mapped runs of a space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maps {
    /// Number of mapped runs.
    pub runs: u64,
    /// Bytes mapped.
    pub bytes: u64,
    /// Runs by bus address: those that the query selects.
    pub rows: Vec<MapRow>,
    /// Where the list continues, if it is cut: `from` of the next query.
    #[serde(with = "hex::option")]
    pub next: Option<u64>,
}

/// A mapped run: bus addresses that continue in user memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRow {
    /// First bus address.
    #[serde(with = "hex")]
    pub iova: u64,
    /// Size in bytes.
    pub size: u64,
    /// The user address that the first leads to.
    #[serde(with = "hex")]
    pub user: u64,
    /// What devices may do: `r`, `w` or `rw`.
    pub access: String,
}

/// Maps and unmaps since a space was created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceCalls {
    /// Number of successful maps.
    pub maps: u64,
    /// Bytes mapped by them.
    pub mapped: u64,
    /// Number of successful unmaps.
    pub unmaps: u64,
    /// Bytes unmapped by them.
    pub unmapped: u64,
    /// Refused maps.
    pub map_refusals: Vec<Refusal>,
    /// Refused unmaps.
    pub unmap_refusals: Vec<Refusal>,
}

/// A guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Name that the program gave it.
    pub name: String,
    /// Slots of RAM by guest address.
    pub slots: Vec<SlotRow>,
    /// Number of all slots.
    pub all_slots: usize,
    /// PHBs.
    pub phbs: Vec<PhbRow>,
    /// Number of all PHBs.
    pub all_phbs: usize,
    /// Hypercalls that named no window.
    pub without_window: Hypercalls,
}

/// A slot of guest RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRow {
    /// First guest address.
    #[serde(with = "hex")]
    pub guest: u64,
    /// Size in bytes.
    pub size: u64,
    /// First user address.
    #[serde(with = "hex")]
    pub user: u64,
    /// Whether it is being removed.
    pub unplugging: bool,
}

/// A PCI host bridge of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhbRow {
    /// Bus unit ID.
    #[serde(with = "hex")]
    pub buid: u64,
    /// Attached groups; `None` while groups or windows are being changed.
    pub groups: Option<Vec<u32>>,
    /// Windows of the guest.
    pub windows: Vec<GuestWindow>,
    /// Hypercalls for its windows.
    pub hypercalls: Hypercalls,
    /// The address space of its devices, named after the guest and the BUID.
    pub space: Space,
}

/// A window of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestWindow {
    /// LIOBN.
    #[serde(with = "hex")]
    pub liobn: u64,
    /// First bus address.
    #[serde(with = "hex")]
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// Page size, bytes.
    pub page: u64,
    /// TCEs that give permissions; `None` if the kernel keeps the table.
    pub entries: Option<TceCount>,
}

/// Number of TCEs that give permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TceCount {
    /// Number.
    pub count: u64,
    /// Whether all were counted; otherwise there may be more.
    pub all: bool,
}

/// Hypercalls that reached the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hypercalls {
    /// `H_GET_TCE`.
    pub gets: u64,
    /// `H_PUT_TCE`.
    pub puts: u64,
    /// `H_PUT_TCE_INDIRECT`.
    pub indirects: u64,
    /// `H_STUFF_TCE`.
    pub stuffs: u64,
    /// TCEs that they set or cleared.
    pub tces: u64,
    /// Refused calls.
    pub refusals: Vec<Refusal>,
}
