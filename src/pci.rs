//! How devices are named: PCI addresses and IOMMU groups.

use core::fmt;
use core::str::FromStr;

/// The number of an IOMMU group, the `N` of `/dev/vfio/N`: devices that VFIO hands out together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u32);

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Group {
    type Err = core::num::ParseIntError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        given.parse().map(Self)
    }
}

/// A PCI address as sysfs spells it: domain, bus, device and function, `0000:01:00.0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// A text that is not a PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message names each field")]
pub enum PciAddressError {
    /// Not in the form of sysfs, or a number is out of range.
    #[error("{given:?} is no PCI address: write domain, bus, device and function, such as 0000:00:01.0")]
    NoPciAddress { given: String },
}

crate::error::classify!(PciAddressError { Argument: NoPciAddress; });

impl PciAddress {
    /// Creates an address; `None` if there is no such device (0 to 31) or function (0 to 7).
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 { Some(Self { domain, bus, device, function }) } else { None }
    }

    /// Returns the domain: the PHB. Some hosts have domains of more than 16 bits.
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// Returns the bus.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Returns the device, below 32.
    pub const fn device(self) -> u8 {
        self.device
    }

    /// Returns the function, below 8.
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(given: &str) -> Result<Self, PciAddressError> {
        parse(given).ok_or_else(|| PciAddressError::NoPciAddress { given: given.to_owned() })
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let small = |text, digits| u8::try_from(hex(text, digits..=digits)?).ok();
    PciAddress::new(hex(domain, 4..=8)?, small(bus, 2)?, small(device, 2)?, small(function, 1)?)
}

fn hex(text: &str, digits: core::ops::RangeInclusive<usize>) -> Option<u32> {
    let good = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    good.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        f.pad(&format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Addresses, and how sysfs spells them.
    pub(crate) const ADDRESSES: [(&str, &str); 3] =
        [("0000:00:01.0", "0000:00:01.0"), ("0031:FF:1f.7", "0031:ff:1f.7"), ("10000:e1:00.0", "10000:e1:00.0")];

    /// Texts that are not addresses.
    pub(crate) const NO_ADDRESSES: &[&str] = &[
        "",
        "00:01.0",
        "0000:00:01",
        "0000:00:20.0",
        "0000:00:01.8",
        "0000:00:01.0.0",
        "0000:00:01.0/..",
        "../../../../etc",
        "0000:00:+1.0",
        "000:00:01.0",
        "0000:00:01.0 ",
        "0000:00:01.0\n",
        "0:0000:00:01.0",
        "nvme0",
    ];

    #[test]
    fn addresses_are_read_and_written_as_sysfs_spells_them() {
        for (given, expected) in ADDRESSES {
            assert_eq!(given.parse::<PciAddress>().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_is_none_is_refused_with_the_form() {
        for &given in NO_ADDRESSES {
            let error = given.parse::<PciAddress>().unwrap_err();
            assert_eq!(error, PciAddressError::NoPciAddress { given: given.to_owned() });
            assert!(error.to_string().contains("0000:00:01.0"), "{error}");
        }
    }
}
