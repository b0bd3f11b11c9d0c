//! Gives a device back.

use super::record::Was;
use super::{BindError, Binder, is_vfio};

/// Where a device goes back to.
#[derive(Debug)]
pub(super) enum Target {
    /// To what is recorded.
    Was(Was),
    /// To whatever driver the kernel finds for it.
    KernelChoice,
}

impl Target {
    fn was(&self) -> Option<&Was> {
        match self {
            Self::Was(was) => Some(was),
            Self::KernelChoice => None,
        }
    }
}

impl Binder {
    /// Puts a device back, as far as it is not there yet; `why` is the failure that led to this.
    pub(super) fn put_back(&self, address: &str, target: &Target, why: Option<&BindError>) -> Result<(), BindError> {
        let wanted = target.was().and_then(|was| was.driver.clone());
        let failed = self.try_to(address, target, wanted.as_deref()).err();
        let driver = self.driver(address);
        match failed {
            Some(error @ BindError::NotRoot { .. }) if why.is_none() => Err(error),
            None if driver.is_some() || wanted.is_none() => Ok(()),
            error => {
                let why = why.cloned().or(error).map(Box::new);
                Err(BindError::NotPutBack { address: address.to_owned(), wanted, driver, why })
            }
        }
    }

    fn try_to(&self, address: &str, target: &Target, wanted: Option<&str>) -> Result<(), BindError> {
        if let Some(now) = self.driver(address).filter(|now| is_vfio(now)) {
            self.write(&self.roots.driver(&now).join("unbind"), address)?;
        }
        // A lone end of line takes the override away.
        let driver_override = target.was().and_then(|was| was.driver_override.as_deref()).unwrap_or("\n");
        self.write(&self.roots.pci(address).join("driver_override"), driver_override)?;
        if self.driver(address).is_some() {
            return Ok(());
        }
        match (target, wanted) {
            // To this one by name: others may match as well.
            (_, Some(driver)) if self.roots.driver(driver).exists() => {
                self.write(&self.roots.driver(driver).join("bind"), address)
            }
            (Target::KernelChoice, _) | (_, Some(_)) => self.probe(address),
            (Target::Was(_), None) => Ok(()),
        }
    }
}
