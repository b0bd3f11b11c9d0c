//! Describes machines to QEMU.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::options::{Cpu, Device, Machine, Options, Switch};

const QEMU: &str = "qemu-system-ppc64";
/// Older versions lack powernv10 and have other firmware.
const OLDEST: u32 = 10;

/// Files of one boot.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The kernel's ELF image.
    pub kernel: &'a Path,
    /// The initial file system.
    pub initramfs: &'a Path,
    /// Where images of disks are created.
    pub scratch: &'a Path,
}

/// Checks that QEMU is installed and new enough.
pub fn check_qemu() -> Result<()> {
    let output =
        Command::new(QEMU).arg("--version").output().with_context(|| format!("{QEMU} does not run. {HELP}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let major = major_version(&text).with_context(|| format!("{QEMU} has no version: {text}"))?;
    ensure!(major >= OLDEST, "{QEMU} is version {major}, and {OLDEST} or newer is needed. {HELP}");
    Ok(())
}

const HELP: &str = "Debian's package is qemu-system-ppc; on bookworm install it from backports with \
    apt-get install -t bookworm-backports qemu-system-ppc. ci/install does this";

fn major_version(text: &str) -> Option<u32> {
    let version = text.split("version ").nth(1)?;
    version.split('.').next()?.parse().ok()
}

/// Returns the command that starts the machine. It ends with the thread that started it, however
/// that thread ends.
pub fn command(options: &Options, files: Files) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", QEMU]).args(arguments(options, files)?);
    Ok(command)
}

fn arguments(options: &Options, files: Files) -> Result<Vec<String>> {
    let mut line = Vec::new();
    let mut add = |words: &[&str]| line.extend(words.iter().map(ToString::to_string));
    let pseries = options.machine == Machine::Pseries;
    if !pseries {
        let given =
            [("--cpu", options.cpu.is_some()), ("--ddw", options.ddw.is_some()), ("--pgsz", options.pgsz.is_some())];
        if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
            bail!("{name} belongs to --machine pseries");
        }
    }
    match options.machine {
        Machine::Powernv8 => add(&["-M", "powernv8"]),
        Machine::Powernv9 => add(&["-M", "powernv9"]),
        Machine::Powernv10 => add(&["-M", "powernv10"]),
        Machine::Pseries => {
            let cpu = match options.cpu.unwrap_or(Cpu::Power9) {
                Cpu::Power8 => "power8",
                Cpu::Power9 => "power9",
                Cpu::Power10 => "power10",
            };
            // A guest of a hypervisor runs guests of its own only if the hypervisor allows it.
            let machine = if options.kvm { "pseries,cap-nested-hv=on,cap-ccf-assist=off" } else { "pseries" };
            add(&["-M", machine, "-cpu", cpu, "-nodefaults"]);
        }
    }
    if !pseries {
        // Not -nodefaults, which would remove the root ports.
        add(&["-net", "none", "-vga", "none"]);
    }
    add(&["-smp", &options.smp.to_string(), "-m", &options.memory]);
    add(&["-display", "none", "-monitor", "none", "-serial", "stdio"]);
    add(&["-no-reboot", "-kernel", path(files.kernel)?]);
    add(&["-initrd", path(files.initramfs)?]);
    add(&["-append", "console=hvc0 quiet panic=1 oops=panic log_buf_len=1M"]);
    match options.ddw {
        Some(Switch::On) => add(&["-global", "spapr-pci-host-bridge.ddw=on"]),
        Some(Switch::Off) => add(&["-global", "spapr-pci-host-bridge.ddw=off"]),
        None => {}
    }
    if let Some(mask) = &options.pgsz {
        let digits = mask.trim_start_matches("0x");
        let mask =
            u64::from_str_radix(digits, 16).with_context(|| format!("--pgsz {mask} is not a hexadecimal number"))?;
        add(&["-global", &format!("spapr-pci-host-bridge.pgsz={mask:#x}")]);
    }
    for (index, device) in options.devices().into_iter().enumerate() {
        let bus = bus(options.machine, index)?;
        if pseries && index > 0 {
            let bridge = format!("spapr-pci-host-bridge,index={index},id=phb{index}");
            add(&["-device", &bridge]);
        }
        if device == Device::Edu {
            // The default mask is 28 bits and would hide everything above.
            add(&["-device", &format!("edu,bus={bus},dma_mask=0xffffffffffffffff")]);
        }
        // Functions of one device: all devices on a bus are one group.
        let place = |function: usize| match device.count() {
            1 => format!("bus={bus}"),
            _ => format!("bus={bus},addr=0.{function},multifunction=on"),
        };
        for function in 0..device.disks() {
            let image = image(files.scratch, index, function);
            let image = path(&image)?.replace(',', ",,");
            let id = disk(index, function);
            let drive = format!("if=none,id={id},format=raw,file={image}");
            add(&["-drive", &drive, "-device", &format!("nvme,{},drive={id},serial={id}", place(function))]);
        }
        if device.ports() > 0 {
            let network = format!("hubport,id=net{index},hubid=0");
            // Without an option ROM, which firmware could boot from.
            let device = format!("e1000e,{},netdev=net{index},romfile=", place(device.disks()));
            add(&["-netdev", &network, "-device", &device]);
        }
    }
    line.extend(options.qemu_args.iter().cloned());
    Ok(line)
}

/// Returns the path of a disk's image: which device, and which of its disks.
pub fn image(scratch: &Path, index: usize, function: usize) -> std::path::PathBuf {
    scratch.join(format!("{}.raw", disk(index, function)))
}

/// Returns the name of a disk.
fn disk(index: usize, function: usize) -> String {
    if function == 0 { format!("disk{index}") } else { format!("disk{index}.{function}") }
}

/// One PHB for each device, since a PHB is an IOMMU group.
fn bus(machine: Machine, index: usize) -> Result<String> {
    let most = match machine {
        Machine::Powernv8 => 3,
        Machine::Powernv9 | Machine::Powernv10 => 6,
        Machine::Pseries => 31,
    };
    ensure!(index < most, "this machine has {most} host bridges and takes no more devices than that");
    Ok(match machine {
        Machine::Pseries if index == 0 => "pci.0".into(),
        Machine::Pseries => format!("phb{index}.0"),
        _ => format!("pcie.{index}"),
    })
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn line(options: &str) -> Result<String> {
        let words = format!("run {options} --kernel 6.12 -- report");
        let options = Options::try_parse_from(words.split_whitespace())?;
        let files = Files { kernel: Path::new("/k"), initramfs: Path::new("/i"), scratch: Path::new("/s,s") };
        Ok(arguments(&options, files)?.join(" "))
    }

    #[test]
    fn every_device_gets_a_host_bridge() {
        let text = line("--machine pseries --device edu --device nvme").unwrap();
        assert!(text.contains("-device edu,bus=pci.0,dma_mask=0xffffffffffffffff"));
        assert!(text.contains(
            "-device spapr-pci-host-bridge,index=1,id=phb1 \
             -drive if=none,id=disk1,format=raw,file=/s,,s/disk1.raw \
             -device nvme,bus=phb1.0,drive=disk1,serial=disk1"
        ));
        let text = line("--machine powernv9").unwrap();
        assert!(text.contains("edu,bus=pcie.0,") && text.contains("edu,bus=pcie.1,"));
        assert!(!text.contains("-nodefaults"));
    }

    #[test]
    fn two_controllers_share_a_host_bridge() {
        let text = line("--machine powernv9 --device nvme --device nvme-pair").unwrap();
        for part in ["nvme,bus=pcie.0,drive=disk0,serial=disk0 ", "id=disk1,", "/disk1.1.raw "] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for (id, function) in [("disk1", 0), ("disk1.1", 1)] {
            let device = format!("nvme,bus=pcie.1,addr=0.{function},multifunction=on,drive={id},serial={id}");
            assert!(text.contains(&device), "{device} in {text}");
        }
    }

    #[test]
    fn ethernet_controllers_are_on_one_network() {
        let text = line("--machine powernv9 --device e1000e --device nvme-e1000e").unwrap();
        for part in [
            "-netdev hubport,id=net0,hubid=0 -device e1000e,bus=pcie.0,netdev=net0,romfile=",
            "-device nvme,bus=pcie.1,addr=0.0,multifunction=on,drive=disk1,",
            "-netdev hubport,id=net1,hubid=0 -device e1000e,bus=pcie.1,addr=0.1,multifunction=on,netdev=net1,romfile=",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn devices_beyond_the_host_bridges_are_refused() {
        let devices = "--device edu ".repeat(4);
        assert!(line(&format!("--machine powernv8 {devices}")).is_err());
        assert!(line(&format!("--machine powernv9 {devices}")).is_ok());
    }

    #[test]
    fn firmware_options_belong_to_pseries() {
        let text = line("--machine pseries --cpu power10 --ddw off --pgsz 11000").unwrap();
        assert!(text.contains("-cpu power10"));
        assert!(text.contains("-global spapr-pci-host-bridge.ddw=off"));
        assert!(text.contains("-global spapr-pci-host-bridge.pgsz=0x11000"));
        assert!(line("--machine pseries --pgsz z").is_err());
        for option in ["--cpu power9", "--ddw on", "--pgsz 1000"] {
            assert!(line(&format!("--machine powernv10 {option}")).is_err());
        }
    }

    #[test]
    fn a_pseries_machine_with_kvm_may_run_guests() {
        assert!(line("--machine pseries --kvm").unwrap().contains("-M pseries,cap-nested-hv=on,"));
        assert!(line("--machine pseries").unwrap().contains("-M pseries -cpu"));
        assert!(!line("--machine powernv9 --kvm").unwrap().contains("nested"));
    }

    #[test]
    fn versions_of_qemu() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) x";
        assert_eq!(major_version(text), Some(10));
        assert_eq!(major_version("QEMU emulator version 7.2.0"), Some(7));
        assert_eq!(major_version(""), None);
    }
}
