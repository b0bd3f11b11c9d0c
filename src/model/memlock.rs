//! Locked memory of the process (`account_locked_vm`, `mm/util.c`).

use crate::addr::PageShift;
use crate::host::{Errno, Memlock};

#[derive(Clone, Debug)]
pub(super) struct Locked {
    page: PageShift,
    pages: u64,
    limit: Option<u64>,
    capable: bool,
}

impl Locked {
    /// Creates the state of root without limits: counted, not limited.
    pub(super) fn new(page: PageShift) -> Self {
        Self { page, pages: 0, limit: Some(8 << 20), capable: true }
    }

    pub(super) fn set_limit(&mut self, bytes: Option<u64>) {
        self.limit = bytes;
    }

    pub(super) fn set_capable(&mut self, capable: bool) {
        self.capable = capable;
    }

    /// Charges host pages.
    pub(super) fn charge(&mut self, pages: u64) -> Result<(), Errno> {
        let sum = self.pages.checked_add(pages).ok_or(Errno::ENOMEM)?;
        let limit = self.limit.filter(|_| !self.capable && pages != 0);
        if limit.is_some_and(|bytes| sum > bytes >> self.page.get()) {
            return Err(Errno::ENOMEM);
        }
        self.pages = sum;
        Ok(())
    }

    pub(super) fn uncharge(&mut self, pages: u64) {
        self.pages = self.pages.saturating_sub(pages);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pages.saturating_mul(self.page.bytes())
    }

    pub(super) fn view(&self) -> Memlock {
        Memlock { limit: self.limit, locked: self.bytes(), unlimited: self.capable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_binds_only_without_the_capability() {
        let mut locked = Locked::new(PageShift::P64K);
        locked.set_limit(Some(0x2ffff));
        locked.set_capable(false);
        assert_eq!(locked.charge(2), Ok(()));
        assert_eq!(locked.charge(1), Err(Errno::ENOMEM));
        assert_eq!(locked.charge(0), Ok(()));
        locked.set_capable(true);
        assert_eq!(locked.charge(1), Ok(()));
        assert_eq!(locked.bytes(), 0x30000);
        locked.uncharge(3);
        assert_eq!(locked.bytes(), 0);
    }
}
