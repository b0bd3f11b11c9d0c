//! The machine: RAM, a PHB with a device of the host, a virtual processor.

use super::counts::Counts;
use super::device::{BAR, Passed};
use super::kvm::{Registers, Vcpu, Vm};
use super::{Accel, Options, image, tree, vectors};
use spapr_iommu::Group;
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::{GuestIommu, GuestMemory, Liobn, Phb, PhbConfig, Slots};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Host, PciDevice, Shared};
use spapr_iommu::kvm::{self, Acceleration, Kvm};
use spapr_iommu::model::Recording;
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;

const BUID: u64 = 0x800_0000_2000_0000;
const LIOBN: Liobn = Liobn(0x8000_0000);
/// Address of the device tree in the guest.
const TREE: u64 = 1 << 20;

/// 64-bit mode, machine checks, little endian; no address translation.
const MSR: u64 = 1 << 63 | 1 << 12 | 1;

/// The machine. Fields are dropped in this order: the processor stops before its devices are
/// closed, and these before its RAM is freed.
pub(crate) struct Machine {
    pub(crate) vcpu: Vcpu,
    vm: Vm,
    pub(crate) devices: Vec<Passed>,
    pub(crate) iommu: GuestIommu,
    pub(crate) recording: Arc<Recording<Arc<Vfio>>>,
    pub(crate) counts: Counts,
    phb: Arc<Phb>,
    /// Devices that can still be plugged.
    spare: std::vec::IntoIter<(Group, PciDevice)>,
    /// KVM accesses it as long as the VM exists.
    ram: Shared,
}

impl Machine {
    /// Creates a machine whose processor is about to run the guest's image.
    pub(crate) fn new(host: &Arc<Vfio>, options: &Options) -> Result<Self, Box<dyn Error>> {
        let vm = Vm::new().map_err(|error| format!("KVM: {error}; is kvm-hv loaded?"))?;
        let vcpu = vm.add_vcpu(0)?;
        let ram = host.share(options.memory << 20, host.page_shift())?;
        let bytes = ram.range().len();
        // SAFETY: no reference to shared memory is ever made, and the machine drops it after the
        // VM.
        unsafe { vm.add_memory(0, 0, ram.range().start().0, bytes) }?;
        let slots = Arc::new(Slots::new());
        slots.insert(GuestAddr(0), &ram)?;

        let recording = Arc::new(Recording::new(Arc::clone(host)));
        let registry = Registry::new(recording.clone());
        let kvm = || -> Result<Arc<dyn Kvm>, Box<dyn Error>> { Ok(Arc::new(kvm::Vm::new(vm.file())?)) };
        let acceleration = match options.accel {
            Accel::On => Some(Acceleration::trusting(kvm()?)?),
            Accel::PutOnly => Some(Acceleration::new(kvm()?)?),
            Accel::Off => None,
        };
        let iommu = match acceleration {
            Some(acceleration) => GuestIommu::accelerated(&registry, slots.clone(), acceleration),
            None => GuestIommu::new(&registry, slots.clone()),
        };
        iommu.add_memory()?;
        let phb = iommu.add_phb(PhbConfig::new(BUID, LIOBN)?)?;
        let mut spare = options.device.find(&host.groups()).into_iter();
        let (group, pci) = spare.next().ok_or_else(|| format!("no {:?} is bound to vfio-pci", options.device))?;
        let device = Passed::attach(&phb, group, &pci, options.device, BAR)?;

        let file = std::fs::read(&options.guest)
            .map_err(|error| format!("{}: {error}; ppc64/run builds it", options.guest.display()))?;
        let entry = image::load(&file, slots.as_ref())?;
        vectors::write(slots.as_ref())?;
        slots.write(GuestAddr(TREE), &tree::make(bytes, &phb, &device)?)?;
        let mut registers = Registers { pc: entry, msr: MSR, ..Default::default() };
        registers.gpr[3] = TREE;
        vcpu.file().set_registers(&registers)?;
        let counts = Counts::default();
        Ok(Self { vcpu, vm, devices: vec![device], iommu, recording, counts, phb, spare, ram })
    }

    /// Plugs one more device: returns the address of its BAR 0, or `None` if there is none. The
    /// processor must be stopped.
    pub(crate) fn plug(&mut self) -> Result<Option<u64>, Box<dyn Error>> {
        let Some((group, pci)) = self.spare.next() else { return Ok(None) };
        let (kind, at) = (self.devices[0].kind, BAR * (self.devices.len() as u64 + 1));
        self.devices.push(Passed::attach(&self.phb, group, &pci, kind, at)?);
        Ok(Some(at))
    }

    /// Takes everything down, in the order that leaks nothing, and returns the counts.
    pub(crate) fn end(self) -> Result<Counts, Box<dyn Error>> {
        let Self { vcpu, vm, devices, iommu, counts, phb, ram, .. } = self;
        for device in devices {
            let group = device.group;
            drop(device);
            phb.detach(group)?;
        }
        drop((phb, iommu));
        // KVM accesses guest RAM as long as the VM exists.
        drop((vcpu, vm));
        drop(ram);
        Ok(counts)
    }
}
