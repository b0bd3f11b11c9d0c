//! Numbers and structures of KVM (`include/uapi/linux/kvm.h`,
//! `arch/powerpc/include/uapi/asm/kvm.h`).

use nix::{ioctl_readwrite, ioctl_write_int_bad, ioctl_write_ptr, request_code_none, request_code_write};
use serde::{Deserialize, Serialize};

const KVM: u8 = 0xae;

/// `KVM_RUN`, whose call is made in assembly.
pub(super) const RUN: u64 = request_code_none!(KVM, 0x80);

ioctl_write_int_bad!(create_vm, request_code_none!(KVM, 0x01));
ioctl_write_int_bad!(vcpu_mmap_size, request_code_none!(KVM, 0x04));
ioctl_write_int_bad!(create_vcpu, request_code_none!(KVM, 0x41));
ioctl_write_ptr!(set_memory, KVM, 0x46, MemoryRegion);
ioctl_write_ptr!(irqfd, KVM, 0x76, Irqfd);
ioctl_write_ptr!(ioeventfd, KVM, 0x79, IoEventfd);
nix::ioctl_read!(get_registers, KVM, 0x81, Registers);
ioctl_write_ptr!(set_registers, KVM, 0x82, Registers);
ioctl_write_ptr!(enable_cap, KVM, 0xa3, EnableCap);
ioctl_write_ptr!(get_one_register, KVM, 0xab, OneRegister);
ioctl_write_ptr!(set_one_register, KVM, 0xac, OneRegister);
ioctl_write_ptr!(define_rtas_token, KVM, 0xac, RtasToken);
ioctl_write_ptr!(configure_mmu, KVM, 0xaf, MmuV3);
// The kernel writes the structure, although its number says that it only reads it.
nix::ioctl_read_bad!(get_radix_info, request_code_write!(KVM, 0xb0, size_of::<RadixInfo>()), RadixInfo);
ioctl_readwrite!(create_device, KVM, 0xe0, CreateDevice);
ioctl_write_ptr!(set_device_attr, KVM, 0xe1, DeviceAttr);
ioctl_write_ptr!(get_device_attr, KVM, 0xe2, DeviceAttr);

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
pub(crate) struct MemoryRegion {
    pub(super) slot: u32,
    pub(super) flags: u32,
    pub(super) guest: u64,
    pub(super) size: u64,
    pub(super) user: u64,
}

/// `struct kvm_irqfd`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Irqfd {
    pub(super) fd: u32,
    pub(super) gsi: u32,
    pub(super) flags: u32,
    pub(super) resample: u32,
    pub(super) pad: [u8; 16],
}

/// `struct kvm_ioeventfd`.
#[repr(C)]
pub(crate) struct IoEventfd {
    pub(super) value: u64,
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) fd: i32,
    pub(super) flags: u32,
    pub(super) pad: [u8; 36],
}

/// `struct kvm_regs` of POWER.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Registers {
    pub(crate) pc: u64,
    pub(crate) cr: u64,
    pub(crate) ctr: u64,
    pub(crate) lr: u64,
    pub(crate) xer: u64,
    pub(crate) msr: u64,
    pub(crate) srr0: u64,
    pub(crate) srr1: u64,
    pub(crate) pid: u64,
    pub(crate) sprg: [u64; 8],
    pub(crate) gpr: [u64; 32],
}

/// `struct kvm_enable_cap`.
#[repr(C)]
pub(crate) struct EnableCap {
    pub(super) cap: u32,
    pub(super) flags: u32,
    pub(super) args: [u64; 4],
    pub(super) pad: [u8; 64],
}

/// `struct kvm_one_reg`.
#[repr(C)]
pub(crate) struct OneRegister {
    pub(super) id: u64,
    pub(super) addr: u64,
}

/// `struct kvm_rtas_token_args`.
#[repr(C)]
pub(crate) struct RtasToken {
    pub(super) name: [u8; 120],
    pub(super) token: u64,
}

/// `struct kvm_ppc_mmuv3_cfg`.
#[repr(C)]
pub(crate) struct MmuV3 {
    pub(super) flags: u64,
    pub(super) process_table: u64,
}

/// `struct kvm_ppc_rmmu_info`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct RadixInfo {
    pub(super) geometries: [[u8; 8]; 8],
    pub(super) encodings: [u32; 8],
}

/// `struct kvm_create_device`.
#[repr(C)]
pub(crate) struct CreateDevice {
    pub(super) kind: u32,
    pub(super) fd: u32,
    pub(super) flags: u32,
}

/// `struct kvm_device_attr`.
#[repr(C)]
pub(crate) struct DeviceAttr {
    pub(super) flags: u32,
    pub(super) group: u32,
    pub(super) attr: u64,
    pub(super) addr: u64,
}
