//! The state of the machine in files, with which another process continues: `--save` and
//! `--restore`.

use super::kvm::{Registers, SavedVcpu};
use super::machine::Machine;
use super::ram;
use super::virtio::SavedDisk;
use serde::{Deserialize, Serialize};
use spapr_iommu::guest::SavedIommu;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything except RAM, which is in a file of its own.
#[derive(Serialize, Deserialize)]
struct SavedMachine {
    iommu: SavedIommu,
    disk: Option<SavedDisk>,
    process_table: u64,
    /// Sources of the devices' interrupts, and their states.
    sources: Vec<(u32, u64)>,
    /// The general registers of processors that run.
    processors: Vec<(SavedVcpu, Option<Registers>)>,
}

impl Machine {
    /// Writes the state to a file. No processor may run, now or later.
    pub(crate) fn save(&mut self, file: &Path) -> Result<(), Box<dyn Error>> {
        if !self.devices.is_empty() {
            return Err("the state of a host's device cannot be saved: use --disks 0".into());
        }
        // The disk comes first: its messages reach the interrupt controller, which presents them to
        // processors, and its writes reach RAM.
        let disk = self.disk.as_mut().map(|disk| disk.save(&self.vm)).transpose()?;
        let sources = self.sources().map(|source| Ok((source, self.xics.source(source)?)));
        let sources = sources.collect::<Result<_, std::io::Error>>()?;
        let processors = self.cpus.files().iter().enumerate();
        let processors = processors.map(|(number, file)| Ok((file.save(), self.cpus.registers(number)?)));
        let processors = processors.collect::<Result<_, std::io::Error>>()?;
        let (iommu, process_table) = (self.iommu.save(), self.vm.process_table());
        let saved = SavedMachine { iommu, disk, process_table, sources, processors };
        fs::write(file, serde_json::to_vec(&saved)?)?;
        ram::save(self.ram.memory().as_ref(), &ram_file(file))?;
        let tces = saved.iommu.phbs.iter().flat_map(|phb| &phb.windows).flat_map(|window| &window.runs);
        println!("saved, with {} TCEs", tces.map(|run| run.count).sum::<u64>());
        Ok(())
    }

    /// Reads the state into a new machine. Its guest continues as soon as processors run.
    pub(crate) fn restore(&self, file: &Path) -> Result<(), Box<dyn Error>> {
        let saved = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let saved: SavedMachine = serde_json::from_slice(&saved)?;
        if (saved.disk.is_some(), saved.processors.len()) != (self.disk.is_some(), self.cpus.files().len()) {
            return Err("the saved machine has other devices or processors".into());
        }
        ram::restore(self.ram.memory().as_ref(), &ram_file(file))?;
        self.iommu.restore(&saved.iommu)?;
        self.vm.set_process_table(saved.process_table)?;
        for (file, (vcpu, _)) in self.cpus.files().iter().zip(&saved.processors) {
            file.restore(vcpu)?;
        }
        // After the processors, to which interrupts may be presented.
        for (source, state) in saved.sources {
            self.xics.set_source(source, state)?;
        }
        if let (Some(disk), Some(saved)) = (&self.disk, saved.disk) {
            disk.restore(&self.vm, saved)?;
        }
        for (number, (_, registers)) in (0..).zip(saved.processors) {
            if let Some(registers) = registers {
                self.cpus.resume(number, registers);
            }
        }
        Ok(())
    }
}

fn ram_file(file: &Path) -> PathBuf {
    file.with_extension("ram")
}
