//! The result of a run.

use super::console::Said;
use super::cpus::End;
use super::hcall;
use super::kvm::Vcpu;
use super::machine::Machine;
use super::options::Options;
use super::plug::Tally;
use ppc64_linux_init::Restart;
use spapr_iommu::Group;
use std::collections::BTreeSet;
use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The report.
pub(crate) struct Report {
    began: Instant,
    took: Duration,
    boots: u32,
    /// How many kernels should run, and how many of them the monitor should boot.
    wanted: [u32; 2],
    /// Whether the run should end with a saved guest.
    saves: bool,
    end: Option<End>,
    said: Said,
    /// NVMe controllers, and their groups.
    controllers: [usize; 2],
    /// Whether the emulated disk's file holds what the guest wrote, and the number of requests.
    file: Option<Result<u64, String>>,
    exits: String,
    total: u64,
    tce: u64,
    lost: u64,
    calls: [u64; 3],
    tally: Tally,
    leaked: u64,
}

impl Report {
    /// Creates the report of a run that has not started.
    pub(crate) fn new(options: &Options) -> Self {
        let by_guest = options.boots > 1 && options.restart != Restart::Reboot;
        let wanted = match options.restore {
            Some(_) => [0, 1],
            None => [options.boots, options.boots - u32::from(by_guest)],
        };
        let saves = options.save.is_some();
        let (began, took) = (Instant::now(), Duration::ZERO);
        let (said, exits, end) = (Said::default(), String::new(), None);
        Self {
            began,
            took,
            boots: 0,
            wanted,
            saves,
            end,
            said,
            controllers: [0; 2],
            file: None,
            exits,
            total: 0,
            tce: 0,
            lost: 0,
            calls: [0; 3],
            tally: Tally::default(),
            leaked: 0,
        }
    }

    /// Returns how often the monitor has booted the guest.
    pub(crate) fn boots(&self) -> u32 {
        self.boots
    }

    /// Returns whether the guest is waiting to be saved.
    pub(crate) fn is_ready(&self) -> bool {
        self.end == Some(End::Ready)
    }

    /// Returns how many kernels reached user space.
    pub(crate) fn kernels(&self) -> u32 {
        self.said.kernels
    }

    /// Records the end of a boot.
    pub(crate) fn take(&mut self, machine: &Machine, vcpus: &[Vcpu], end: End) {
        self.boots += 1;
        self.took = self.began.elapsed();
        self.end = Some(end);
        self.said = machine.console.said();
        let groups: BTreeSet<Group> = machine.devices.iter().map(|device| device.group).collect();
        self.controllers = [machine.devices.len(), groups.len()];
        // A guest that is saved has not written everything that it announces.
        self.file = machine.disk.as_ref().filter(|_| !self.is_ready()).map(|disk| disk.check(&self.said.wrote));
        self.exits = machine.exits.to_string();
        self.total = machine.exits.total();
        self.tce = machine.exits.hcalls(&hcall::TCE);
        self.lost = vcpus.iter().map(Vcpu::lost).sum();
        self.tally = machine.connectors.tally();
        let space = machine.phb.space().stats();
        self.calls = [machine.registry.stats().registers, space.maps, space.unmaps];
    }

    /// Records how much memory stays locked after teardown.
    pub(crate) fn leaked(&mut self, bytes: u64) {
        self.leaked = bytes;
    }

    /// Returns how many kernels the guest started without the monitor.
    fn restarts(&self) -> u32 {
        self.said.kernels.saturating_sub(self.boots)
    }

    /// Returns whether what devices could reach without a driver varied.
    fn differs(&self) -> bool {
        self.said.idle.windows(2).any(|two| two[0] != two[1])
    }

    fn is_good(&self) -> bool {
        let (status, end) = if self.saves { (None, End::Ready) } else { (Some(0), End::Off) };
        let checked = self.said.failed == 0 && self.said.passed > 0 && self.said.status == status;
        let file = !matches!(self.file, Some(Err(_)));
        let plugged = self.tally.wrong.is_empty();
        let booted = [self.said.kernels, self.boots] == self.wanted;
        checked && file && !self.differs() && plugged && booted && self.end == Some(end) && self.leaked == 0
    }

    /// Returns success if the guest powered off with status 0, all its checks passed, and nothing
    /// stays locked.
    pub(crate) fn status(&self) -> ExitCode {
        if self.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boots, took, total, exits, tce, lost, calls: [registers, maps, unmaps], .. } = self;
        let end = match &self.end {
            Some(End::Off) => "powered off",
            Some(End::Ready) => "ready to be saved",
            Some(End::Reboot) => "wants to boot again",
            Some(End::Failed(why)) => why,
            Some(End::Hung(places)) => &format!("took too long, {places}"),
            None => "did not run",
        };
        let took = took.as_millis();
        match self.wanted {
            [0, _] => writeln!(f, "the guest was restored and ran for {took} ms, then: {end}")?,
            _ => writeln!(f, "the guest booted {boots} times in {took} ms, then: {end}")?,
        }
        writeln!(f, "kernels that reached user space: {}, started by another: {}", self.said.kernels, self.restarts())?;
        writeln!(f, "exits: {total}: {exits}")?;
        writeln!(f, "TCE hypercalls that reached the monitor: {tce}")?;
        writeln!(f, "memory registered {registers} times, mapped {maps} times, unmapped {unmaps} times")?;
        writeln!(f, "KVM_RUN lost floating-point registers of the monitor {lost} times")?;
        writeln!(f, "NVMe controllers: {}, in {} groups", self.controllers[0], self.controllers[1])?;
        for idle in &self.said.idle {
            writeln!(f, "devices without a driver: {idle}")?;
        }
        if self.differs() {
            writeln!(f, "devices without a driver: not as before")?;
        }
        if self.tally.plugged + self.tally.unplugged > 0 {
            let Tally { plugged, unplugged, wrong, .. } = &self.tally;
            writeln!(f, "plugged {plugged} times, unplugged {unplugged} times, {} wrong", wrong.len())?;
            wrong.iter().try_for_each(|line| writeln!(f, "wrong: {line}"))?;
        }
        match &self.file {
            Some(Ok(requests)) => {
                writeln!(f, "the emulated disk's file has what the guest wrote, by {requests} requests")?
            }
            Some(Err(why)) => writeln!(f, "the emulated disk's file is wrong: {why}")?,
            None => {}
        }
        let status = self.said.status.map_or("none".into(), |status| status.to_string());
        writeln!(
            f,
            "checks passed: {}, failed: {}, status of the guest: {status}",
            self.said.passed, self.said.failed
        )?;
        writeln!(f, "memory still locked: {} bytes", self.leaked)
    }
}
