//! The part of KVM that the monitors need. This folder contains their `unsafe` code, except for the
//! calls that hand memory to a VM.

mod ioctl;
mod run;
mod saved;
mod vcpu;
mod xics;

pub(crate) use ioctl::Registers;
pub(crate) use run::Kick;
pub(crate) use saved::SavedVcpu;
pub(crate) use vcpu::{Exit, Vcpu, VcpuFile};
pub(crate) use xics::Xics;

use ioctl::{EnableCap, IoEventfd, Irqfd, MemoryRegion, MmuV3, RadixInfo, RtasToken};
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// The kernel answers a hypercall: `KVM_CAP_PPC_ENABLE_HCALL`.
const CAP_ENABLE_HCALL: u32 = 104;
/// Ends an irqfd: `KVM_IRQFD_FLAG_DEASSIGN`.
const DEASSIGN: u32 = 1;
/// Bits of `KVM_PPC_CONFIGURE_V3_MMU`: radix, and translations that the guest flushes itself.
const RADIX_GTSE: u64 = 1 | 2;
/// Bit of a process table entry that selects radix.
const RADIX: u64 = 1 << 63;

/// A virtual machine.
pub(crate) struct Vm {
    kvm: File,
    vm: OwnedFd,
    process_table: AtomicU64,
}

impl Vm {
    /// Creates a VM without memory and processors.
    pub(crate) fn new() -> io::Result<Self> {
        let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
        // SAFETY: this number takes a value, and no address.
        let vm = unsafe { ioctl::create_vm(kvm.as_raw_fd(), 0) }?;
        // SAFETY: the kernel has just opened this file for us.
        Ok(Self { kvm, vm: unsafe { OwnedFd::from_raw_fd(vm) }, process_table: AtomicU64::new(0) })
    }

    /// Returns the VM's file.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.vm.as_fd()
    }

    /// Gives the guest memory: `size` bytes at `user` of this process, at `guest` in the guest's
    /// addresses.
    ///
    /// # Safety
    /// The memory must belong to the guest until it is removed or the VM is closed: nothing here
    /// holds a reference to it, and it stays mapped.
    pub(crate) unsafe fn add_memory(&self, slot: u32, guest: u64, user: u64, size: u64) -> io::Result<()> {
        let region = MemoryRegion { slot, flags: 0, guest, size, user };
        // SAFETY: the kernel reads a structure of that type; what it does with the memory is the
        // caller's promise.
        unsafe { ioctl::set_memory(self.vm.as_raw_fd(), &region) }?;
        Ok(())
    }

    /// Takes memory from the guest.
    pub(crate) fn remove_memory(&self, slot: u32) -> io::Result<()> {
        let region = MemoryRegion { slot, flags: 0, guest: 0, size: 0, user: 0 };
        // SAFETY: the kernel reads a structure of that type, whose size of 0 names no memory.
        unsafe { ioctl::set_memory(self.vm.as_raw_fd(), &region) }?;
        Ok(())
    }

    /// Creates a processor that makes hypercalls.
    pub(crate) fn add_vcpu(&self, number: u32) -> io::Result<Vcpu> {
        // SAFETY: takes a value.
        let size = unsafe { ioctl::vcpu_mmap_size(self.kvm.as_raw_fd(), 0) }?;
        let number = i32::try_from(number).map_err(|_| Errno::EINVAL)?;
        // SAFETY: takes a value.
        let file = unsafe { ioctl::create_vcpu(self.vm.as_raw_fd(), number) }?;
        // SAFETY: the kernel has just opened this file for us.
        Vcpu::new(unsafe { OwnedFd::from_raw_fd(file) }, usize::try_from(size).unwrap_or_default())
    }

    /// Has the kernel answer a hypercall where it can.
    pub(crate) fn enable_hcall(&self, number: u64) -> io::Result<()> {
        enable(&self.vm, CAP_ENABLE_HCALL, [number, 1, 0, 0])
    }

    /// Has the kernel answer an RTAS call of its interrupt controller.
    pub(crate) fn define_rtas_token(&self, name: &str, token: u32) -> io::Result<()> {
        let mut call = RtasToken { name: [0; 120], token: token.into() };
        call.name.get_mut(..name.len()).ok_or(Errno::EINVAL)?.copy_from_slice(name.as_bytes());
        // SAFETY: the kernel reads a structure of that type, whose name ends with a 0 unless it
        // fills the field, which no call's does.
        unsafe { ioctl::define_rtas_token(self.vm.as_raw_fd(), &call) }?;
        Ok(())
    }

    /// Gives the guest a radix MMU with that process table, as `H_REGISTER_PROC_TBL` requests; 0 is
    /// the initial state.
    pub(crate) fn set_process_table(&self, table: u64) -> io::Result<()> {
        let config = MmuV3 { flags: RADIX_GTSE, process_table: RADIX | table };
        // SAFETY: the kernel reads a structure of that type.
        unsafe { ioctl::configure_mmu(self.vm.as_raw_fd(), &config) }?;
        self.process_table.store(table, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the process table that was set last.
    pub(crate) fn process_table(&self) -> u64 {
        self.process_table.load(Ordering::Relaxed)
    }

    /// Returns the page sizes of the radix MMU, as `ibm,processor-radix-AP-encodings` has them.
    pub(crate) fn radix_encodings(&self) -> io::Result<Vec<u32>> {
        let mut info = RadixInfo::default();
        // SAFETY: the kernel writes a structure of that type.
        unsafe { ioctl::get_radix_info(self.vm.as_raw_fd(), &mut info) }?;
        Ok(info.encodings.into_iter().take_while(|encoding| *encoding != 0).collect())
    }

    /// Lets the kernel raise an interrupt of the guest whenever `eventfd` is signalled, or ends
    /// that.
    pub(crate) fn set_irqfd(&self, eventfd: BorrowedFd<'_>, source: u32, on: bool) -> io::Result<()> {
        let fd = eventfd.as_raw_fd().cast_unsigned();
        let irqfd = Irqfd { fd, gsi: source, flags: if on { 0 } else { DEASSIGN }, ..Irqfd::default() };
        // SAFETY: the kernel reads a structure of that type.
        unsafe { ioctl::irqfd(self.vm.as_raw_fd(), &irqfd) }?;
        Ok(())
    }

    /// Has the kernel signal `eventfd` whenever the guest stores `len` bytes there, and nothing
    /// else.
    pub(crate) fn set_ioeventfd(&self, eventfd: BorrowedFd<'_>, addr: u64, len: u32) -> io::Result<()> {
        let store = IoEventfd { value: 0, addr, len, fd: eventfd.as_raw_fd(), flags: 0, pad: [0; 36] };
        // SAFETY: the kernel reads a structure of that type.
        unsafe { ioctl::ioeventfd(self.vm.as_raw_fd(), &store) }?;
        Ok(())
    }
}

/// `KVM_ENABLE_CAP` on a VM or a processor.
fn enable(file: &OwnedFd, cap: u32, args: [u64; 4]) -> io::Result<()> {
    let cap = EnableCap { cap, flags: 0, args, pad: [0; 64] };
    // SAFETY: the kernel reads a structure of that type.
    unsafe { ioctl::enable_cap(file.as_raw_fd(), &cap) }?;
    Ok(())
}
