//! QEMU with the same guest.

use crate::counts::{Counts, EVENTS};
use crate::monitor::{self, Run};
use crate::{KERNEL, Options};
use spapr_iommu::host::vfio::bind::Binder;
use std::error::Error;
use std::fs::{self, File};
use std::io::BufReader;
use std::process::Command;

/// File in which it leaves its trace.
const TRACE: &str = "/tmp/qemu.trace";
/// Features that KVM lacks under emulation.
const MACHINE: &str = "pseries,accel=kvm,ic-mode=xics,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,\
    cap-ccf-assist=off,cap-large-decr=off";

/// Runs QEMU.
pub(crate) fn run(options: &Options) -> Result<Run, Box<dyn Error>> {
    monitor::run(command(options)?, options.verbose)
}

/// Runs QEMU once more, counting by trace events.
pub(crate) fn count(options: &Options) -> Result<Counts, Box<dyn Error>> {
    let mut command = command(options)?;
    command.args(["-D", TRACE]).args(EVENTS.iter().flat_map(|event| ["-trace", event]));
    monitor::run(command, options.verbose)?;
    let counts = Counts::of_trace(BufReader::new(File::open(TRACE)?))?;
    fs::remove_file(TRACE)?;
    Ok(counts)
}

fn command(options: &Options) -> Result<Command, Box<dyn Error>> {
    let controller = |address: &str| {
        let path = format!("/sys/bus/pci/devices/{address}/class");
        fs::read_to_string(path).is_ok_and(|class| class.starts_with("0x0108"))
    };
    let mut addresses = Binder::new().devices().into_iter().map(|device| device.address);
    let address = addresses.find(|address| controller(address)).ok_or("no NVMe controller: --device nvme")?;
    let mut command = Command::new("/usr/bin/qemu-system-ppc64");
    let machine = if options.vof { format!("{MACHINE},x-vof=on") } else { MACHINE.to_owned() };
    command.args(["-machine", &machine, "-cpu", "host", "-smp", "1", "-m", &options.memory.to_string()]);
    command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.args(["-kernel", "/guest/vmlinux", "-initrd", "/guest/initramfs.gz"]);
    command.args(["-append", &format!("{KERNEL} -- --boot 0 --boots 1 --cpus 1 --disks 1 --measure")]);
    // The guest identifies its disks by slot.
    command.args(["-device", &format!("vfio-pci,host={address},addr=1")]);
    Ok(command)
}
