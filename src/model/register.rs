//! REGISTER and UNREGISTER of a v2 container.

use super::container::{Driver, Kernel, Result, check_args};
use super::violation::Violation;
use crate::host::Errno;
use crate::uapi::spapr::RegisterMemory;

impl Driver {
    /// `tce_iommu_register_pages`.
    pub(super) fn register(&mut self, kernel: &mut Kernel, args: &RegisterMemory) -> Result {
        self.bound = true;
        check_args(args.argsz, size_of::<RegisterMemory>(), args.flags)?;
        aligned(kernel, args)?;
        let range = args.vaddr..args.vaddr.checked_add(args.size).ok_or(Errno::EINVAL)?;
        if let Some(region) = kernel.regions.exact(&range) {
            if self.registered.contains(&range.start) {
                return Err(Errno::EBUSY);
            }
            region.used += 1;
        } else {
            let result = kernel.regions.add(&mut kernel.process, range.clone(), &mut kernel.violations)?;
            if result != 0 {
                return Ok(result);
            }
        }
        self.registered.insert(0, range.start);
        self.enabled = true;
        Ok(0)
    }

    /// `tce_iommu_unregister_pages`. Its own lookup holds the region while it drops the container's
    /// use, so the refusal of the last drop is lost.
    pub(super) fn unregister(&mut self, kernel: &mut Kernel, args: &RegisterMemory) -> Result {
        if !self.bound {
            return Err(Errno::EPERM);
        }
        check_args(args.argsz, size_of::<RegisterMemory>(), args.flags)?;
        aligned(kernel, args)?;
        // REGISTER has checked that it does not wrap; here a wrap only means that no such region
        // exists.
        let range = args.vaddr..args.vaddr.checked_add(args.size).ok_or(Errno::ENOENT)?;
        let region = kernel.regions.exact(&range).ok_or(Errno::ENOENT)?;
        let at = self.registered.iter().position(|start| *start == range.start).ok_or(Errno::ENOENT)?;
        if region.used == 1 && region.mapped != 1 {
            let (range, mapped) = (region.user, region.mapped - 1);
            kernel.violations.push(Violation::UnregisterWhileMapped { range, mapped });
        }
        self.registered.remove(at);
        kernel.regions.put(&mut kernel.process, range.start);
        Ok(0)
    }
}

fn aligned(kernel: &Kernel, args: &RegisterMemory) -> Result<()> {
    if (args.vaddr | args.size) & kernel.process.page.mask() == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}
