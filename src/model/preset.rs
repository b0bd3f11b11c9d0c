//! Presets: a model's machine, host page and kernel, and their text form.

use super::KernelVersion;
use crate::addr::PageShift;
use crate::host::Platform;
use core::fmt;
use core::str::FromStr;

/// A machine, its host page size and its kernel.
///
/// Written `machine[-option…][-page][-kernel]`, for example `powernv9`, `powernv9-4k` or
/// `pseries-noddw-4k-7.2`. What is left out is the default: 64 KiB pages, Linux 6.12, firmware as
/// QEMU has it. An exact version of a kernel stands for the model that is like it, see
/// [`KernelVersion`]. Options of a pseries machine are `noddw` (firmware without dynamic windows),
/// `1window` (a PE with a single window, as with SR-IOV) and `pgsz=0x11000` (page sizes of dynamic
/// windows).
///
/// ```
/// use spapr_iommu::model::Preset;
/// let preset: Preset = "pseries-64k-7.2".parse()?;
/// assert_eq!(preset.to_string(), "pseries-7.2");
/// # Ok::<(), spapr_iommu::model::PresetError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The machine.
    pub machine: Machine,
    /// The host page size, a property of the kernel package.
    pub page: HostPage,
    /// The kernel.
    pub kernel: KernelVersion,
}

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// Bare-metal POWER8 (PHB3).
    Powernv8,
    /// Bare-metal POWER9 (PHB4).
    Powernv9,
    /// Bare-metal POWER10 (PHB5).
    Powernv10,
    /// A partition or guest.
    Pseries(Firmware),
}

/// What the firmware of a pseries machine offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Whether it offers dynamic DMA windows at all (`ibm,ddw-applicable`).
    pub ddw: bool,
    /// Page sizes of dynamic windows, bit n for 2^n bytes; 4 KiB is always included and 16 GiB
    /// never.
    pub page_sizes: u64,
    /// Windows of a PE: 2, or 1 if a dynamic window replaces the default window.
    pub windows: u32,
}

impl Default for Firmware {
    fn default() -> Self {
        Self { ddw: true, page_sizes: 0x121_1000, windows: 2 }
    }
}

/// Page size of a host kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostPage {
    /// 4 KiB.
    Small,
    /// 64 KiB.
    #[default]
    Large,
}

impl HostPage {
    /// Returns the page as a power of two.
    pub const fn shift(self) -> PageShift {
        match self {
            Self::Small => PageShift::P4K,
            Self::Large => PageShift::P64K,
        }
    }
}

impl Preset {
    /// Returns the platform, PowerNV or pSeries.
    pub const fn platform(&self) -> Platform {
        match self.machine {
            Machine::Pseries(_) => Platform::Pseries,
            _ => Platform::Powernv,
        }
    }

    /// Returns the sizes of hugetlb pages the machine has.
    pub const fn huge_pages(&self) -> &'static [PageShift] {
        match self.machine {
            Machine::Powernv8 => &[PageShift::P16M],
            Machine::Powernv9 | Machine::Powernv10 => &[],
            Machine::Pseries(_) => &[PageShift::P2M, PageShift::P1G],
        }
    }
}

/// Why a text is not a preset.
#[derive(Clone, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message names each field")]
pub enum PresetError {
    /// The first word is not a machine.
    #[error("unknown machine {name:?}: the machines are powernv8, powernv9, powernv10 and pseries")]
    UnknownMachine { name: String },
    /// A later word is not an option of that machine.
    #[error(
        "{word:?} is not an option of {machine}: options are 4k, 64k, 6.12, 7.2 or an exact version such as 7.2.6, \
         and for pseries noddw, 1window, pgsz=0x…"
    )]
    UnknownWord { machine: String, word: String },
}

crate::error::classify!(PresetError { Argument: UnknownMachine, UnknownWord; });

impl FromStr for Preset {
    type Err = PresetError;

    fn from_str(text: &str) -> Result<Self, PresetError> {
        let mut words = text.split('-');
        let name = words.next().unwrap_or_default();
        let machine = match name {
            "powernv8" => Machine::Powernv8,
            "powernv9" => Machine::Powernv9,
            "powernv10" => Machine::Powernv10,
            "pseries" => Machine::Pseries(Firmware::default()),
            _ => return Err(PresetError::UnknownMachine { name: name.into() }),
        };
        let mut preset = Self { machine, page: HostPage::default(), kernel: KernelVersion::default() };
        for word in words {
            preset.apply(word).ok_or_else(|| PresetError::UnknownWord { machine: name.into(), word: word.into() })?;
        }
        Ok(preset)
    }
}

impl Preset {
    fn apply(&mut self, word: &str) -> Option<()> {
        if let Some(kernel) = KernelVersion::parse(word) {
            self.kernel = kernel;
            return Some(());
        }
        match (word, &mut self.machine) {
            ("4k", _) => self.page = HostPage::Small,
            ("64k", _) => self.page = HostPage::Large,
            ("noddw", Machine::Pseries(firmware)) => firmware.ddw = false,
            ("1window", Machine::Pseries(firmware)) => firmware.windows = 1,
            (word, Machine::Pseries(firmware)) => {
                let hex = word.strip_prefix("pgsz=0x")?;
                firmware.page_sizes = u64::from_str_radix(hex, 16).ok()?;
            }
            _ => return None,
        }
        Some(())
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.machine {
            Machine::Powernv8 => f.write_str("powernv8")?,
            Machine::Powernv9 => f.write_str("powernv9")?,
            Machine::Powernv10 => f.write_str("powernv10")?,
            Machine::Pseries(firmware) => {
                f.write_str("pseries")?;
                if !firmware.ddw {
                    f.write_str("-noddw")?;
                }
                if firmware.windows == 1 {
                    f.write_str("-1window")?;
                }
                if firmware.page_sizes != Firmware::default().page_sizes {
                    write!(f, "-pgsz={:#x}", firmware.page_sizes)?;
                }
            }
        }
        if self.page == HostPage::Small {
            f.write_str("-4k")?;
        }
        if self.kernel != KernelVersion::default() {
            write!(f, "-{}", self.kernel)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_reads_back_as_it_is_shown() {
        for text in [
            "powernv8",
            "powernv9-4k",
            "powernv10-7.2",
            "pseries",
            "pseries-4k-7.2",
            "pseries-noddw-4k-7.2",
            "pseries-1window",
            "pseries-7.2.0",
            "powernv9-4k-6.12.112",
            "pseries-pgsz=0x11000",
        ] {
            assert_eq!(text.parse::<Preset>().unwrap().to_string(), text);
        }
        assert_eq!("powernv9-64k-6.12".parse::<Preset>().unwrap().to_string(), "powernv9");
        assert_eq!("powernv9-64k-7.2.6".parse::<Preset>().unwrap().to_string(), "powernv9-7.2.0");
        assert_eq!("powernv9-64k-7.2.13".parse::<Preset>().unwrap().to_string(), "powernv9-7.2");
    }

    #[test]
    fn an_unknown_word_is_named() {
        assert_eq!("x86".parse::<Preset>(), Err(PresetError::UnknownMachine { name: "x86".into() }));
        assert_eq!(
            "powernv9-noddw".parse::<Preset>(),
            Err(PresetError::UnknownWord { machine: "powernv9".into(), word: "noddw".into() })
        );
        let error = "pseries-16k".parse::<Preset>().unwrap_err();
        assert_eq!((error.kind(), error.code()), (crate::error::ErrorKind::Argument, "unknown-word"));
    }
}
