//! The single table of the format: the name of each step, and the names of its arguments.

use super::super::value::number;
use super::step::{DeviceFile, MemoryName, Part, Slot, Step, Where, Which};
use core::fmt;
use spapr_iommu::addr::{Bytes, PageShift};
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Call, Fd};
use spapr_iommu::uapi::{eeh, spapr, vfio};

/// An argument of a step.
pub(super) struct Argument<'a> {
    pub name: &'static str,
    /// Whether it has no default.
    pub required: bool,
    pub field: Field<'a>,
}

/// Storage of an argument.
pub(super) enum Field<'a> {
    File(&'a mut Slot),
    /// A file inside a call.
    Inner(&'a mut Fd),
    User(&'a mut Where),
    Memory(&'a mut usize),
    Byte(&'a mut u8),
    Small(&'a mut u32),
    /// The size of a structure, and its maximum.
    Argsz(&'a mut u32, u32),
    Large(&'a mut u64),
    Page(&'a mut Option<PageShift>),
    Access(&'a mut Protection),
}

/// The value of an argument in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u32),
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

const ACCESS: [(Protection, &str); 3] =
    [(Protection::None, "none"), (Protection::Read, "r"), (Protection::ReadWrite, "rw")];

impl Field<'_> {
    /// Returns the value. Small numbers are numbers, large ones are hexadecimal text: TOML has no
    /// number above 2^63.
    pub(super) fn get(&self) -> Option<Value> {
        let text = match self {
            Self::Byte(byte) => return Some(Value::Number(u32::from(**byte))),
            Self::Small(number) | Self::Argsz(number, _) => return Some(Value::Number(**number)),
            Self::File(slot) => slot.to_string(),
            Self::Inner(fd) => Slot::from(**fd).to_string(),
            Self::User(user) => user.to_string(),
            Self::Memory(slot) => MemoryName(**slot).to_string(),
            Self::Large(number) => format!("{number:#x}"),
            Self::Page(page) => Bytes((**page)?.bytes()).to_string(),
            Self::Access(access) => ACCESS.iter().find(|(known, _)| *known == **access)?.1.to_owned(),
        };
        Some(Value::Text(text))
    }

    /// Returns its value, if that is a number the kernel could write.
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Self::Small(number) | Self::Argsz(number, _) => Some(u64::from(**number)),
            Self::Large(number) => Some(**number),
            _ => None,
        }
    }

    /// Sets the value; `None` if it is not of the argument's kind.
    pub(super) fn set(&mut self, text: &str) -> Option<()> {
        match self {
            Self::File(slot) => **slot = text.parse().ok()?,
            Self::Inner(fd) => **fd = text.parse::<Slot>().ok()?.into(),
            Self::User(user) => **user = text.parse().ok()?,
            Self::Memory(slot) => **slot = text.parse::<MemoryName>().ok()?.0,
            Self::Byte(byte) => **byte = number(text)?.try_into().ok()?,
            Self::Small(small) => **small = number(text)?.try_into().ok()?,
            Self::Argsz(argsz, most) => {
                **argsz = number(text)?.try_into().ok().filter(|argsz| *argsz <= *most)?;
            }
            Self::Large(large) => **large = number(text)?,
            Self::Page(page) => **page = Some(number(text).and_then(PageShift::from_bytes)?),
            Self::Access(access) => **access = ACCESS.iter().find(|(_, known)| *known == text)?.0,
        }
        Some(())
    }

    pub(super) fn expected(&self) -> &'static str {
        match self {
            Self::File(_) | Self::Inner(_) => {
                "a file: \"container0\", \"group0\", \"device0\", \"device0-again\" or \"device0-absent\""
            }
            Self::User(_) => "a user address: \"memory0+0x1000\" or \"0x1000\"",
            Self::Memory(_) => "memory in the order it was allocated: \"memory0\"",
            Self::Byte(_) => "a byte, 0 to 255",
            Self::Small(_) => "a number of 32 bits",
            Self::Argsz(..) => {
                "at most the size of the structure: the kernel would trust a larger one and write past its end"
            }
            Self::Large(_) => "a number such as \"64K\", \"0x10000\" or 4096",
            Self::Page(_) => "a page size: a power of two from \"4K\" to \"16G\"",
            Self::Access(_) => "what the process may do: \"none\", \"r\" or \"rw\"",
        }
    }
}

fn required<'a>(name: &'static str, field: Field<'a>) -> Argument<'a> {
    Argument { name, required: true, field }
}

fn optional<'a>(name: &'static str, field: Field<'a>) -> Argument<'a> {
    Argument { name, required: false, field }
}

fn part(part: &mut Part) -> Vec<Argument<'_>> {
    vec![
        required("memory", Field::Memory(&mut part.slot)),
        optional("offset", Field::Large(&mut part.offset)),
        required("size", Field::Large(&mut part.len)),
    ]
}

const fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

/// Returns every step with the defaults of its arguments.
pub(super) fn blanks() -> Vec<Step> {
    let (file, nowhere, part) = (Slot::Container(0), Where::Fixed(0), Part::default());
    let device = Slot::Device(DeviceFile { group: 0, which: Which::First });
    let memory = spapr::RegisterMemory { argsz: argsz::<spapr::RegisterMemory>(), ..Default::default() };
    let calls = [
        Call::GetApiVersion,
        Call::CheckExtension(0),
        Call::SetIommu(0),
        Call::TceGetInfo(spapr::TceInfo { argsz: argsz::<spapr::TceInfo>(), ..Default::default() }),
        Call::Enable,
        Call::Disable,
        Call::RegisterMemory(memory),
        Call::UnregisterMemory(memory),
        Call::MapDma(vfio::DmaMap { argsz: argsz::<vfio::DmaMap>(), ..Default::default() }),
        Call::UnmapDma(vfio::DmaUnmap { argsz: argsz::<vfio::DmaUnmap>(), ..Default::default() }),
        Call::TceCreate(spapr::TceCreate { argsz: argsz::<spapr::TceCreate>(), ..Default::default() }),
        Call::TceRemove(spapr::TceRemove { argsz: argsz::<spapr::TceRemove>(), ..Default::default() }),
        Call::EehPeOp(eeh::PeOp { argsz: argsz::<eeh::PeOp>(), ..Default::default() }),
        Call::GroupGetStatus(vfio::GroupStatus { argsz: argsz::<vfio::GroupStatus>(), ..Default::default() }),
        Call::GroupSetContainer(file.into()),
        Call::GroupUnsetContainer,
        Call::DeviceGetInfo(vfio::DeviceInfo { argsz: argsz::<vfio::DeviceInfo>(), ..Default::default() }),
        Call::DeviceGetRegionInfo(vfio::RegionInfo { argsz: argsz::<vfio::RegionInfo>(), ..Default::default() }),
        Call::DeviceGetIrqInfo(vfio::IrqInfo { argsz: argsz::<vfio::IrqInfo>(), ..Default::default() }),
        Call::DeviceReset,
    ];
    let others = [
        Step::Open(file),
        Step::Close(file),
        Step::Allocate { size: 0, page: None },
        Step::Free(part),
        Step::Protect(part, Protection::None),
        Step::Fill(part, 0),
        Step::Check(part, 0),
        Step::Dma { device, from: 0, to: 0, len: 0 },
    ];
    others.into_iter().chain(calls.map(|call| Step::Call { file, call, user: nowhere })).collect()
}

impl Step {
    /// Returns the key it is written under: for a call, its name in the kernel's headers.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Close(_) => "close",
            Self::Allocate { .. } => "allocate",
            Self::Free(_) => "free",
            Self::Protect(..) => "protect",
            Self::Fill(..) => "fill",
            Self::Check(..) => "check",
            Self::Dma { .. } => "dma",
            Self::Call { call, .. } => match call {
                Call::GetApiVersion => "get-api-version",
                Call::CheckExtension(_) => "check-extension",
                Call::SetIommu(_) => "set-iommu",
                Call::TceGetInfo(_) => "tce-get-info",
                Call::Enable => "enable",
                Call::Disable => "disable",
                Call::RegisterMemory(_) => "register-memory",
                Call::UnregisterMemory(_) => "unregister-memory",
                Call::MapDma(_) => "map-dma",
                Call::UnmapDma(_) => "unmap-dma",
                Call::TceCreate(_) => "tce-create",
                Call::TceRemove(_) => "tce-remove",
                Call::EehPeOp(_) => "eeh-pe-op",
                Call::GroupGetStatus(_) => "group-get-status",
                Call::GroupSetContainer(_) => "group-set-container",
                Call::GroupUnsetContainer => "group-unset-container",
                Call::DeviceGetInfo(_) => "device-get-info",
                Call::DeviceGetRegionInfo(_) => "device-get-region-info",
                Call::DeviceGetIrqInfo(_) => "device-get-irq-info",
                Call::DeviceReset => "device-reset",
            },
        }
    }

    /// Returns its arguments, in order.
    pub(super) fn arguments(&mut self) -> Vec<Argument<'_>> {
        match self {
            Self::Open(file) | Self::Close(file) => vec![required("file", Field::File(file))],
            Self::Allocate { size, page } => {
                vec![required("size", Field::Large(size)), optional("page", Field::Page(page))]
            }
            Self::Free(there) => part(there),
            Self::Protect(there, access) => with(part(there), required("access", Field::Access(access))),
            Self::Fill(there, byte) | Self::Check(there, byte) => {
                with(part(there), required("byte", Field::Byte(byte)))
            }
            Self::Dma { device, from, to, len } => vec![
                required("file", Field::File(device)),
                required("from", Field::Large(from)),
                required("to", Field::Large(to)),
                required("size", Field::Large(len)),
            ],
            Self::Call { file, call, user } => {
                let mut all = vec![required("file", Field::File(file))];
                all.extend(of_call(call, user));
                all
            }
        }
    }
}

fn with<'a>(mut all: Vec<Argument<'a>>, last: Argument<'a>) -> Vec<Argument<'a>> {
    all.push(last);
    all
}

/// Returns the fields of a call's structure, named as in the kernel's headers.
pub(super) fn of_call<'a>(call: &'a mut Call, user: &'a mut Where) -> Vec<Argument<'a>> {
    use Field::{Argsz, Inner, Large, Small, User};
    match call {
        Call::GetApiVersion | Call::Enable | Call::Disable | Call::GroupUnsetContainer | Call::DeviceReset => {
            Vec::new()
        }
        Call::CheckExtension(extension) => vec![required("extension", Small(extension))],
        Call::SetIommu(kind) => vec![required("type", Small(kind))],
        Call::GroupSetContainer(fd) => vec![required("container", Inner(fd))],
        Call::TceGetInfo(a) => vec![
            optional("argsz", Argsz(&mut a.argsz, argsz::<spapr::TceInfo>())),
            optional("flags", Small(&mut a.flags)),
            optional("dma32_window_start", Small(&mut a.dma32_window_start)),
            optional("dma32_window_size", Small(&mut a.dma32_window_size)),
            optional("pgsizes", Large(&mut a.ddw.pgsizes)),
            optional("max_dynamic_windows_supported", Small(&mut a.ddw.max_dynamic_windows_supported)),
            optional("levels", Small(&mut a.ddw.levels)),
        ],
        Call::RegisterMemory(a) | Call::UnregisterMemory(a) => vec![
            optional("argsz", Argsz(&mut a.argsz, argsz::<spapr::RegisterMemory>())),
            optional("flags", Small(&mut a.flags)),
            required("vaddr", User(user)),
            required("size", Large(&mut a.size)),
        ],
        Call::MapDma(a) => vec![
            optional("argsz", Argsz(&mut a.argsz, argsz::<vfio::DmaMap>())),
            required("flags", Small(&mut a.flags)),
            required("vaddr", User(user)),
            required("iova", Large(&mut a.iova)),
            required("size", Large(&mut a.size)),
        ],
        Call::UnmapDma(a) => vec![
            optional("argsz", Argsz(&mut a.argsz, argsz::<vfio::DmaUnmap>())),
            optional("flags", Small(&mut a.flags)),
            required("iova", Large(&mut a.iova)),
            required("size", Large(&mut a.size)),
        ],
        Call::TceCreate(a) => vec![
            optional("argsz", Argsz(&mut a.argsz, argsz::<spapr::TceCreate>())),
            optional("flags", Small(&mut a.flags)),
            required("page_shift", Small(&mut a.page_shift)),
            optional("resv1", Small(&mut a.resv1)),
            required("window_size", Large(&mut a.window_size)),
            required("levels", Small(&mut a.levels)),
            optional("resv2", Small(&mut a.resv2)),
            optional("start_addr", Large(&mut a.start_addr)),
        ],
        Call::TceRemove(a) => vec![
            optional("argsz", Argsz(&mut a.argsz, argsz::<spapr::TceRemove>())),
            optional("flags", Small(&mut a.flags)),
            required("start_addr", Large(&mut a.start_addr)),
        ],
        Call::EehPeOp(a) => vec![
            optional("argsz", Argsz(&mut a.argsz, argsz::<eeh::PeOp>())),
            optional("flags", Small(&mut a.flags)),
            required("op", Small(&mut a.op)),
            optional("type", Small(&mut a.err.kind)),
            optional("func", Small(&mut a.err.func)),
            optional("addr", Large(&mut a.err.addr)),
            optional("mask", Large(&mut a.err.mask)),
        ],
        Call::GroupGetStatus(a) => {
            vec![
                optional("argsz", Argsz(&mut a.argsz, argsz::<vfio::GroupStatus>())),
                optional("flags", Small(&mut a.flags)),
            ]
        }
        Call::DeviceGetInfo(a) => vec![
            optional("argsz", Argsz(&mut a.argsz, argsz::<vfio::DeviceInfo>())),
            optional("flags", Small(&mut a.flags)),
            optional("num_regions", Small(&mut a.num_regions)),
            optional("num_irqs", Small(&mut a.num_irqs)),
            optional("cap_offset", Small(&mut a.cap_offset)),
            optional("pad", Small(&mut a.pad)),
        ],
        Call::DeviceGetRegionInfo(a) => vec![
            optional("argsz", Argsz(&mut a.argsz, argsz::<vfio::RegionInfo>())),
            optional("flags", Small(&mut a.flags)),
            required("index", Small(&mut a.index)),
            optional("cap_offset", Small(&mut a.cap_offset)),
            optional("size", Large(&mut a.size)),
            optional("offset", Large(&mut a.offset)),
        ],
        Call::DeviceGetIrqInfo(a) => vec![
            optional("argsz", Argsz(&mut a.argsz, argsz::<vfio::IrqInfo>())),
            optional("flags", Small(&mut a.flags)),
            required("index", Small(&mut a.index)),
            optional("count", Small(&mut a.count)),
        ],
    }
}

/// Returns the numbers in a call's structure, by name.
pub(super) fn numbers(mut call: Call) -> Vec<(&'static str, u64)> {
    let user = &mut Where::Fixed(0);
    of_call(&mut call, user).iter().filter_map(|argument| Some((argument.name, argument.field.number()?))).collect()
}
