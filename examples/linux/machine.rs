//! The machine: RAM, a PHB with devices of the host, an interrupt controller, processors.

use super::console::Console;
use super::cpus::Cpus;
use super::device;
use super::drc::Connectors;
use super::exits::Exits;
use super::function::Function;
use super::gate::Gate;
use super::hcall::H_SET_MODE;
use super::kvm::{Vcpu, Vm, Xics};
use super::memory::Ram;
use super::options::{Accel, Bars, Options, read};
use super::slot::Slot;
use super::virtio::Disk;
use super::{image, next, rtas, tree};
use spapr_iommu::Group;
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::{GuestIommu, GuestMemory, Liobn, Phb, PhbConfig};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Errno, Host};
use spapr_iommu::inspect::Inspector;
use spapr_iommu::kvm::{self, Acceleration, Kvm};
use spapr_iommu::registry::Registry;
use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::sync::Arc;

const BUID: u64 = 0x800_0000_2000_0000;
const LIOBN: Liobn = Liobn(0x8000_0000);

/// Initial layout of the guest's memory: the kernel at 0, the rest above it.
const TREE: GuestAddr = GuestAddr(0x07e0_0000);
pub(crate) const RTAS: GuestAddr = GuestAddr(0x07f0_0000);
pub(crate) const RTAS_SIZE: u64 = 0x1000;
pub(crate) const INITRD: GuestAddr = GuestAddr(0x0800_0000);

/// Firmware: passes r3, the argument block, to H_RTAS (`mr r4,r3; lis r3,0; ori r3,r3,0xf000; sc 1;
/// blr`). Big endian, as it is called.
const FIRMWARE: [u32; 5] = [0x7c64_1b78, 0x3c60_0000, 0x6063_f000, 0x4400_0022, 0x4e80_0020];

/// Mask for an address in the kernel's image, without the bits of the place to which the kernel has
/// mapped itself.
const REAL: u64 = (1 << 60) - 1;

/// The machine. Fields are dropped in this order: the devices are closed before the VM, and this
/// before its RAM.
pub(crate) struct Machine {
    pub(crate) disk: Option<Disk>,
    pub(crate) devices: Vec<Slot>,
    pub(crate) phb: Arc<Phb>,
    pub(crate) iommu: GuestIommu,
    pub(crate) cpus: Cpus,
    pub(crate) console: Console,
    pub(crate) exits: Exits,
    pub(crate) xics: Xics,
    pub(crate) connectors: Connectors,
    pub(crate) gate: Gate,
    pub(crate) vm: Vm,
    pub(crate) ram: Ram,
    pub(crate) registry: Registry,
}

impl Machine {
    /// Creates a machine and its processors, all stopped.
    pub(crate) fn new(host: Arc<Vfio>, options: &Options) -> Result<(Self, Vec<Vcpu>), Box<dyn Error>> {
        let vm = Vm::new().map_err(|error| format!("KVM: {error}; is kvm-hv loaded?"))?;
        let max_memory = options.max_memory.unwrap_or(options.memory) << 20;
        let ram = Ram::new(&vm, options.memory << 20, options.plug, max_memory)?;
        let memory = ram.memory();
        let (xics, vcpus) = processors(&vm, options.cpus)?;

        let registry = Registry::new(host.clone());
        let kvm = || -> Result<Arc<dyn Kvm>, Box<dyn Error>> { Ok(Arc::new(kvm::Vm::new(vm.file())?)) };
        let acceleration = match options.accel {
            Accel::On => Some(Acceleration::trusting(kvm()?)?),
            Accel::PutOnly => Some(Acceleration::new(kvm()?)?),
            Accel::Off => None,
        };
        let iommu = match acceleration {
            Some(acceleration) => GuestIommu::accelerated(&registry, memory.clone(), acceleration),
            None => GuestIommu::new(&registry, memory.clone()),
        };
        iommu.add_memory()?;
        let phb = iommu.add_phb(PhbConfig::new(BUID, LIOBN)?)?;

        let found = device::find(&host.groups());
        let wanted = options.disks.unwrap_or(found.len());
        if found.len() < wanted {
            return Err(format!("{} NVMe controllers are bound to vfio-pci, {wanted} are wanted", found.len()).into());
        }
        let mut devices: Vec<Slot> = Vec::new();
        for (number, (group, pci)) in (0..).zip(found.into_iter().take(wanted)) {
            if devices.iter().all(|other| other.group != group) {
                phb.attach(group)?;
            }
            devices.push(Slot::new(&phb, group, pci, number, options.bars == Bars::Mapped)?);
        }
        let disk = options.emulated.as_ref().map(|file| Disk::new(&vm, &phb, ram.map(), file)).transpose()?;
        let cpus = Cpus::new(vcpus.iter().map(|vcpu| Arc::clone(vcpu.file())).collect());
        let (console, exits) = (Console::default(), Exits::default());
        let (connectors, gate) = (Connectors::default(), Gate::default());
        let machine =
            Self { disk, devices, phb, iommu, cpus, console, exits, xics, connectors, gate, vm, ram, registry };
        machine.reset_sources()?;
        Ok((machine, vcpus))
    }

    /// Returns everything on the guest's bus.
    pub(crate) fn functions(&self) -> impl Iterator<Item = &dyn Function> {
        let disk = self.disk.iter().map(|disk| disk as &dyn Function);
        self.devices.iter().map(|device| device as &dyn Function).chain(disk)
    }

    /// Returns the state that another process may inspect.
    pub(crate) fn inspector(&self) -> Inspector {
        let inspector = Inspector::new(&self.registry);
        inspector.add_guest("linux", &self.iommu);
        inspector
    }

    /// Returns the interrupt sources of the devices' messages.
    pub(crate) fn sources(&self) -> impl Iterator<Item = u32> {
        self.functions().flat_map(|function| function.messages().sources())
    }

    /// Resets these sources to their initial state.
    fn reset_sources(&self) -> io::Result<()> {
        self.sources().try_for_each(|source| self.xics.reset_source(source))
    }

    /// Loads the guest's initial memory, and starts its first processor.
    pub(crate) fn boot(&self, options: &Options, arguments: &str) -> Result<(), Box<dyn Error>> {
        let memory = self.ram.memory().as_ref();
        let kernel = read(&options.kernel)?;
        let entry = image::load(&kernel, memory)? & REAL;
        let initrd = next::initrd(options, &kernel)?;
        memory.write(INITRD, &initrd)?;
        memory.write(RTAS, &FIRMWARE.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>())?;
        let boot = tree::Boot { arguments, initrd: initrd.len() as u64 };
        memory.write(TREE, &tree::make(self, &boot)?)?;
        // r3 is the tree; 0 in r5 means that there is no Open Firmware.
        self.cpus.start(0, entry, TREE.0);
        Ok(())
    }

    /// Resets everything to the state before the first boot. No processor may run.
    pub(crate) fn reset(&self) -> Result<(), Box<dyn Error>> {
        self.functions().try_for_each(|function| function.reset(&self.vm))?;
        self.iommu.reset()?;
        self.connectors.reset(self)?;
        self.cpus.reset()?;
        self.vm.set_process_table(0)?;
        for file in self.cpus.files() {
            self.xics.reset_server(file)?;
        }
        Ok(self.reset_sources()?)
    }

    /// Returns the bytes of locked memory.
    pub(crate) fn locked(&self) -> Result<u64, Errno> {
        Ok(self.registry.host().memlock()?.locked)
    }

    /// Returns the number of TCEs in all tables.
    pub(crate) fn tces(&self) -> u64 {
        let mut count = 0;
        self.phb.tables().iter().for_each(|table| table.each(&mut |_, _| count += 1));
        count
    }

    /// Takes everything down, in the order that leaks nothing.
    pub(crate) fn end(self) -> Result<(), Box<dyn Error>> {
        self.functions().for_each(|function| function.messages().off(&self.vm));
        let Self { disk, devices, phb, iommu, vm, ram, .. } = self;
        let plugged = devices.iter().filter(|device| device.is_plugged());
        let groups: BTreeSet<Group> = plugged.map(|device| device.group).collect();
        drop((disk, devices));
        groups.into_iter().try_for_each(|group| phb.detach(group))?;
        drop((phb, iommu, vm, ram));
        Ok(())
    }
}

/// Creates the interrupt controller, and processors that are connected to it.
fn processors(vm: &Vm, count: u32) -> Result<(Xics, Vec<Vcpu>), Box<dyn Error>> {
    let xics = Xics::new(vm)?;
    let mut vcpus = Vec::new();
    for number in 0..count {
        let vcpu = vm.add_vcpu(number)?;
        xics.connect(vcpu.file(), number)?;
        vcpus.push(vcpu);
    }
    vm.enable_hcall(H_SET_MODE)?;
    for (token, name) in rtas::KERNELS {
        vm.define_rtas_token(name, token)?;
    }
    Ok((xics, vcpus))
}
