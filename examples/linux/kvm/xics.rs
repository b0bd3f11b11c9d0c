//! The interrupt controller in the kernel: XICS, which bare-metal and nested hosts both support.

use super::ioctl::{CreateDevice, DeviceAttr};
use super::{VcpuFile, Vm, enable, ioctl};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `KVM_DEV_TYPE_XICS`.
const XICS: u32 = 3;
/// `KVM_DEV_XICS_GRP_SOURCES`: the attributes are source numbers.
const SOURCES: u32 = 1;
/// State of a source: edge-triggered, with the least favoured priority, which masks it.
const MASKED_EDGE: u64 = 0xff << 32;
/// `KVM_CAP_IRQ_XICS` of a vCPU: the controller's file, and the vCPU's server number.
const CAP_XICS: u32 = 92;
/// `KVM_REG_PPC_ICP_STATE`: the interrupt presented to a vCPU.
const ICP_STATE: u64 = 0x1030_0000_0000_008c;
/// Nothing is pending, not even an IPI (bits 24 to 31), and nothing is let through (56 to 63).
const ICP_IDLE: u64 = 0xff << 24 | 0xff << 16;

/// The controller.
pub(crate) struct Xics(OwnedFd);

impl Xics {
    /// Creates the controller of a VM, before its processors.
    pub(crate) fn new(vm: &Vm) -> io::Result<Self> {
        let mut device = CreateDevice { kind: XICS, fd: 0, flags: 0 };
        // SAFETY: the kernel reads and writes a structure of that type.
        unsafe { ioctl::create_device(vm.vm.as_raw_fd(), &mut device) }?;
        // SAFETY: the kernel has just opened this file for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(device.fd.cast_signed()) }))
    }

    /// Connects a processor.
    pub(crate) fn connect(&self, vcpu: &VcpuFile, server: u32) -> io::Result<()> {
        enable(vcpu.file(), CAP_XICS, [self.0.as_raw_fd() as u64, server.into(), 0, 0])
    }

    /// Creates a source of interrupts, or resets it.
    pub(crate) fn reset_source(&self, source: u32) -> io::Result<()> {
        self.set_source(source, MASKED_EDGE)
    }

    /// Returns the state of a source.
    pub(crate) fn source(&self, source: u32) -> io::Result<u64> {
        let mut state = 0u64;
        let addr = (&raw mut state).expose_provenance() as u64;
        let attr = DeviceAttr { flags: 0, group: SOURCES, attr: source.into(), addr };
        // SAFETY: the kernel reads a structure of that type, and writes 64 bits at its address.
        unsafe { ioctl::get_device_attr(self.0.as_raw_fd(), &attr) }?;
        Ok(state)
    }

    /// Sets the state of a source. A pending interrupt is delivered.
    pub(crate) fn set_source(&self, source: u32, state: u64) -> io::Result<()> {
        let addr = std::ptr::from_ref(&state).expose_provenance() as u64;
        let attr = DeviceAttr { flags: 0, group: SOURCES, attr: source.into(), addr };
        // SAFETY: the kernel reads a structure of that type, and at its address 64 bits, which
        // outlive the call.
        unsafe { ioctl::set_device_attr(self.0.as_raw_fd(), &attr) }?;
        Ok(())
    }

    /// Withdraws the interrupt presented to a processor.
    pub(crate) fn reset_server(&self, vcpu: &VcpuFile) -> io::Result<()> {
        vcpu.set(ICP_STATE, ICP_IDLE)
    }
}
