//! The part of KVM that acceleration of TCE tables uses (`include/uapi/linux/kvm.h`,
//! `arch/powerpc/include/uapi/asm/kvm.h`).

use super::Number;
use nix::{request_code_none, request_code_readwrite, request_code_write};

const KVM: u8 = 0xae;

/// `KVM_CHECK_EXTENSION`, on a VM; takes a `CAP_*`.
pub const CHECK_EXTENSION: Number = request_code_none!(KVM, 0x03);
/// `KVM_ENABLE_CAP`, on a VM; takes an [`EnableCap`].
pub const ENABLE_CAP: Number = request_code_write!(KVM, 0xa3, size_of::<EnableCap>());
/// `KVM_CREATE_SPAPR_TCE_64`, on a VM; takes a [`CreateSpaprTce64`], returns a file.
pub const CREATE_SPAPR_TCE_64: Number = request_code_write!(KVM, 0xa8, size_of::<CreateSpaprTce64>());
/// `KVM_CREATE_DEVICE`, on a VM; takes a [`CreateDevice`].
pub const CREATE_DEVICE: Number = request_code_readwrite!(KVM, 0xe0, size_of::<CreateDevice>());
/// `KVM_SET_DEVICE_ATTR`, on a device; takes a [`DeviceAttr`].
pub const SET_DEVICE_ATTR: Number = request_code_write!(KVM, 0xe1, size_of::<DeviceAttr>());

/// H_PUT_TCE_INDIRECT and H_STUFF_TCE can be answered in the kernel: `KVM_CAP_SPAPR_MULTITCE`.
pub const CAP_SPAPR_MULTITCE: u32 = 94;
/// Hypercalls can be handed to the kernel one by one: `KVM_CAP_PPC_ENABLE_HCALL`.
pub const CAP_PPC_ENABLE_HCALL: u32 = 104;
/// Tables with any page and any start: `KVM_CAP_SPAPR_TCE_64`.
pub const CAP_SPAPR_TCE_64: u32 = 125;
/// Tables can be attached to VFIO groups: `KVM_CAP_SPAPR_TCE_VFIO`.
pub const CAP_SPAPR_TCE_VFIO: u32 = 142;

/// `KVM_DEV_TYPE_VFIO`.
pub const DEV_TYPE_VFIO: u32 = 4;
/// `KVM_DEV_VFIO_GROUP` (now `KVM_DEV_VFIO_FILE`): the attributes of a VFIO device.
pub const DEV_VFIO_GROUP: u32 = 1;
/// `KVM_DEV_VFIO_GROUP_ADD`: takes the address of a group's file, 32 bits.
pub const DEV_VFIO_GROUP_ADD: u64 = 1;
/// `KVM_DEV_VFIO_GROUP_DEL`: takes the address of a group's file, 32 bits.
pub const DEV_VFIO_GROUP_DEL: u64 = 2;
/// `KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE`: takes the address of a [`VfioSpaprTce`].
pub const DEV_VFIO_GROUP_SET_SPAPR_TCE: u64 = 3;

/// `struct kvm_enable_cap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnableCap {
    /// `CAP_*`.
    pub cap: u32,
    /// Must be 0.
    pub flags: u32,
    /// Defined by the capability; for `CAP_PPC_ENABLE_HCALL` the hypercall's number, and 1 to
    /// enable it.
    pub args: [u64; 4],
    /// Padding.
    pub pad: [u8; 64],
}

/// `struct kvm_create_spapr_tce_64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateSpaprTce64 {
    /// The LIOBN the guest names the table with.
    pub liobn: u64,
    /// IOMMU page as a power of two, 12 to 34.
    pub page_shift: u32,
    /// Must be 0.
    pub flags: u32,
    /// First bus address, in pages.
    pub offset: u64,
    /// Number of entries.
    pub size: u64,
}

/// `struct kvm_create_device`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateDevice {
    /// `DEV_TYPE_*`.
    pub kind: u32,
    /// The device's file, set by the kernel.
    pub fd: u32,
    /// 0 to create.
    pub flags: u32,
}

/// `struct kvm_device_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceAttr {
    /// Must be 0.
    pub flags: u32,
    /// Group of attributes, defined by the device.
    pub group: u32,
    /// Attribute in the group, defined by the device.
    pub attr: u64,
    /// Address of the value the attribute takes.
    pub addr: u64,
}

/// `struct kvm_vfio_spapr_tce`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfioSpaprTce {
    /// A group's file.
    pub groupfd: i32,
    /// A table's file.
    pub tablefd: i32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    /// Compares the numbers with those of the kernel's headers, in POWER's encoding and in the
    /// generic one.
    #[test]
    fn numbers_are_the_targets() {
        let power = cfg!(target_arch = "powerpc64");
        for (ours, on_power, elsewhere) in [
            (CHECK_EXTENSION, 0x2000_ae03, 0xae03),
            (ENABLE_CAP, 0x8068_aea3, 0x4068_aea3),
            (CREATE_SPAPR_TCE_64, 0x8020_aea8, 0x4020_aea8),
            (CREATE_DEVICE, 0xc00c_aee0, 0xc00c_aee0),
            (SET_DEVICE_ATTR, 0x8018_aee1, 0x4018_aee1),
        ] {
            assert_eq!(ours, if power { on_power } else { elsewhere }, "{ours:#x}");
        }
    }

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!((size_of::<EnableCap>(), offset_of!(EnableCap, args), offset_of!(EnableCap, pad)), (104, 8, 40));
        assert_eq!(size_of::<CreateSpaprTce64>(), 32);
        let offsets = [
            offset_of!(CreateSpaprTce64, page_shift),
            offset_of!(CreateSpaprTce64, flags),
            offset_of!(CreateSpaprTce64, offset),
            offset_of!(CreateSpaprTce64, size),
        ];
        assert_eq!(offsets, [8, 12, 16, 24]);
        assert_eq!((size_of::<CreateDevice>(), offset_of!(CreateDevice, fd)), (12, 4));
        let offsets = [offset_of!(DeviceAttr, group), offset_of!(DeviceAttr, attr), offset_of!(DeviceAttr, addr)];
        assert_eq!((size_of::<DeviceAttr>(), offsets), (24, [4, 8, 16]));
        assert_eq!((size_of::<VfioSpaprTce>(), offset_of!(VfioSpaprTce, tablefd)), (8, 4));
    }

    /// Checks against `kvm-bindings` what it has; on POWER it has nothing.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn what_all_architectures_share_is_as_the_bindings_have_it() {
        use kvm_bindings as header;
        macro_rules! same_layout {
            ($ours:ty, $theirs:ty, $($field:ident = $their_field:ident),+) => {
                assert_eq!(size_of::<$ours>(), size_of::<$theirs>(), stringify!($theirs));
                $(assert_eq!(offset_of!($ours, $field), offset_of!($theirs, $their_field), stringify!($field));)+
            };
        }
        same_layout!(EnableCap, header::kvm_enable_cap, cap = cap, flags = flags, args = args, pad = pad);
        same_layout!(CreateDevice, header::kvm_create_device, kind = type_, fd = fd, flags = flags);
        same_layout!(DeviceAttr, header::kvm_device_attr, flags = flags, group = group, attr = attr, addr = addr);
        same_layout!(VfioSpaprTce, header::kvm_vfio_spapr_tce, groupfd = groupfd, tablefd = tablefd);
        let caps = [
            (CAP_SPAPR_MULTITCE, header::KVM_CAP_SPAPR_MULTITCE),
            (CAP_PPC_ENABLE_HCALL, header::KVM_CAP_PPC_ENABLE_HCALL),
            (CAP_SPAPR_TCE_64, header::KVM_CAP_SPAPR_TCE_64),
            (CAP_SPAPR_TCE_VFIO, header::KVM_CAP_SPAPR_TCE_VFIO),
            (DEV_TYPE_VFIO, header::kvm_device_type_KVM_DEV_TYPE_VFIO),
        ];
        caps.iter().for_each(|(ours, theirs)| assert_eq!(ours, theirs));
        let attributes = [
            (DEV_VFIO_GROUP_ADD, header::KVM_DEV_VFIO_GROUP_ADD),
            (DEV_VFIO_GROUP_DEL, header::KVM_DEV_VFIO_GROUP_DEL),
            (DEV_VFIO_GROUP_SET_SPAPR_TCE, header::KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE),
        ];
        attributes.iter().for_each(|(ours, theirs)| assert_eq!(*ours, u64::from(*theirs)));
        assert_eq!(DEV_VFIO_GROUP, header::KVM_DEV_VFIO_GROUP);
    }
}
