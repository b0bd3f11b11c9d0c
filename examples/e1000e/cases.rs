//! Sends packets in every mode, and checks that each arrives unchanged.

use crate::buffers::Maps;
use crate::driver::{QUEUES, Setup, Wait};
use crate::packets::{Packets, SMALLEST};
use crate::traffic::{Plan, Traffic};
use crate::{Options, devices, program};
use serde::Serialize;
use spapr_iommu::addr::Bytes;
use spapr_iommu::device::Device;
use spapr_iommu::dma::{Dma, DmaConfig, DmaMask};
use spapr_iommu::host::Host;
use spapr_iommu::model::Recording;
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kernel or a model of it; each call is recorded.
pub(crate) type Kernel = Recording<Arc<dyn Host>>;

/// Bytes of the dynamic window: room for full rings with a page of 64 KiB per buffer.
const CAPACITY: u64 = 64 << 20;
/// Descriptors in each ring.
const ENTRIES: u16 = 256;

/// The result of a case.
#[derive(Debug, Serialize)]
struct Case {
    mask: u32,
    wait: String,
    maps: String,
    packets: usize,
    bytes: u64,
    /// Packets per receive queue.
    queues: [u64; QUEUES],
    /// Interrupts per vector, and their kind.
    interrupts: [u64; QUEUES],
    kind: Option<String>,
    /// Kernel calls while packets were sent.
    map_calls: usize,
    unmap_calls: usize,
    calls: usize,
    seconds: f64,
    crc32: String,
}

impl Case {
    fn print(&self, json: bool) -> Result<(), Box<dyn Error>> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let Self { mask, wait, maps, packets, bytes, queues, interrupts, crc32, seconds, .. } = self;
        let kind = self.kind.as_deref().unwrap_or("no");
        let each = |calls: usize| calls as f64 / *packets as f64;
        println!(
            "{mask} bits, {wait:10}, mapped {maps:9}: {packets} packets, {bytes} bytes, queues {queues:?}, {kind} \
             interrupts {interrupts:?}, {:.0} packets/s, per packet {:.2} ioctls: {:.2} MAP, {:.2} UNMAP, CRC-32 \
             {crc32}",
            *packets as f64 / seconds,
            each(self.calls),
            each(self.map_calls),
            each(self.unmap_calls),
        );
        Ok(())
    }
}

/// Runs the cases that the options select.
pub(crate) fn run(host: &Arc<Kernel>, options: &Options) -> Result<(), Box<dyn Error>> {
    let address = devices::one(host.as_ref(), options.device.as_deref())?;
    let before = held(host)?;
    let (mut cases, mut packets) = (0, 0);
    for bits in options.mask.map_or(vec![64, 32], |mask| vec![mask]) {
        let mask = DmaMask::bits(bits).ok_or("1 to 64 bits")?;
        // A separate Dma for each, because one Dma uses the best window that its devices reach.
        let dma = Dma::with_registry(&Registry::new(host.clone()), config(host, mask < DmaMask::ALL));
        let device = dma.open(address.parse()?, mask)?;
        for wait in options.wait.map_or(vec![Wait::Interrupts, Wait::Polling], |wait| vec![wait.into()]) {
            for maps in options.maps.map_or(vec![Maps::Each, Maps::Scattered, Maps::Once], |maps| vec![maps]) {
                let case = case(host, &dma, &device, options, plan(options, wait, maps))?;
                let case = Case { mask: bits, ..case };
                case.print(options.json)?;
                cases += 1;
                packets += case.packets;
            }
        }
    }
    let after = held(host)?;
    if before != after {
        let (locked, files) = before;
        return Err(format!(
            "{} locked and {files} files open before, {} and {} after",
            Bytes(locked),
            Bytes(after.0),
            after.1
        )
        .into());
    }
    if !options.json {
        println!("{cases} cases: {packets} packets sent and received, nothing left locked, files as before");
    }
    Ok(())
}

/// Returns locked memory and the number of open files.
fn held(host: &Arc<Kernel>) -> Result<(u64, usize), Box<dyn Error>> {
    Ok((host.memlock()?.locked, program::open_files()?))
}

/// Returns the configuration. Its page is the host's: a larger one would expose more memory for
/// each packet.
pub(crate) fn config(host: &Arc<Kernel>, default_window: bool) -> DmaConfig {
    let config = DmaConfig::default().with_capacity(CAPACITY).with_page(host.page_shift());
    if default_window { config } else { config.without_default_window() }
}

/// Returns the plan that the options select.
pub(crate) fn plan(options: &Options, wait: Wait, maps: Maps) -> Plan {
    let kind = options.interrupts.map(Into::into);
    let setup = Setup { entries: ENTRIES, wait, kind, loopback: true };
    Plan { setup, maps, depth: options.depth as usize, largest: options.largest as usize }
}

fn case(host: &Arc<Kernel>, dma: &Dma, device: &Device, options: &Options, plan: Plan) -> Result<Case, Box<dyn Error>> {
    let mut traffic = Traffic::start(dma, device, &plan)?;
    let mut packets = Packets::new(SMALLEST..=plan.largest, traffic.port.address());
    host.take();
    let began = Instant::now();
    traffic.run(&mut packets, options.packets as usize)?;
    let took: Duration = began.elapsed();
    let (map_calls, unmap_calls) = (host.count("VFIO_IOMMU_MAP_DMA"), host.count("VFIO_IOMMU_UNMAP_DMA"));
    let calls = host.take().len();
    let interrupts = traffic.port.interrupts();
    let case = Case {
        mask: 64,
        wait: plan.setup.wait.to_string(),
        maps: plan.maps.to_string(),
        packets: packets.arrived(),
        bytes: packets.bytes(),
        queues: traffic.queues,
        interrupts,
        kind: traffic.port.interrupt_kind().map(|kind| kind.to_string()),
        map_calls,
        unmap_calls,
        calls,
        seconds: took.as_secs_f64(),
        crc32: format!("{:08x}", packets.crc32()),
    };
    traffic.close()?;
    if plan.setup.wait == Wait::Interrupts && interrupts == [0; QUEUES] {
        return Err("no interrupt came".into());
    }
    if case.packets >= 100 && case.queues.contains(&0) {
        return Err(format!("packets arrived in one queue only: {:?}", case.queues).into());
    }
    Ok(case)
}
