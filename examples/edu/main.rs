//! Makes QEMU's `edu` copy memory, through both DMA windows and with each kind of interrupt, and
//! checks what it copied.
//!
//! `cargo run --example edu`, on the model; `ppc64/run --machine pseries --kernel 6.12-64k -- edu
//! --host vfio`.

mod driver;

use clap::Parser;
use driver::{Edu, ID, MOST};
use spapr_iommu::device::InterruptKind;
use spapr_iommu::dma::{Dma, DmaConfig, DmaMask};
use spapr_iommu::host::Host;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::model::Model;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;

/// Has QEMU's edu device copy memory, and checks what it copied.
#[derive(Parser)]
struct Options {
    /// The running kernel (vfio), or a model of one, such as model:pseries-64k
    #[arg(long, default_value = "model:powernv9-64k")]
    host: String,
    /// PCI address of the device [default: the first edu that vfio-pci has]
    #[arg(long)]
    device: Option<String>,
    /// Bits of the device's bus addresses [default: 64, then 32]
    #[arg(long)]
    mask: Option<u32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let host: Arc<dyn Host> = match options.host.strip_prefix("model:") {
        Some(preset) => Arc::new(Model::new(preset.parse()?)),
        None if options.host == "vfio" => Arc::new(Vfio::new()),
        None => return Err("hosts are vfio and model:PRESET".into()),
    };
    let address = match options.device {
        Some(address) => address,
        None => first_edu(host.as_ref()).ok_or("no edu device is bound to vfio-pci")?,
    };
    let registry = Registry::new(host);
    let masks = options.mask.map_or(vec![64, 32], |bits| vec![bits]);
    for bits in masks {
        for kind in [Some(InterruptKind::Msi), Some(InterruptKind::Intx), None] {
            let dma = Dma::with_registry(&registry, DmaConfig::default());
            let edu = Edu::open(&dma, address.parse()?, DmaMask::bits(bits).ok_or("a mask has 1 to 64 bits")?, kind)?;
            let from = dma.buffer::<u8>(MOST as usize, Permission::Read)?;
            let to = dma.buffer::<u8>(MOST as usize, Permission::Write)?;
            let pattern: Vec<u8> = (0..MOST).map(|i| (i * 7 + u64::from(bits)) as u8).collect();
            from.write_slice(0, &pattern)?;
            edu.copy(&from, &to)?;
            let mut copied = vec![0; pattern.len()];
            to.read_slice(0, &mut copied)?;
            if copied != pattern {
                return Err(format!("{bits} bits: the device copied something else").into());
            }
            let by = kind.map_or("polling".to_owned(), |kind| kind.to_string());
            println!("{address}, {bits} bits, {by}: {} bytes from {} to {}", copied.len(), from.iova(), to.iova());
        }
    }
    Ok(())
}

fn first_edu(host: &dyn Host) -> Option<String> {
    let devices = host.groups().into_iter().flat_map(|group| group.devices);
    let usable = |device: &spapr_iommu::host::PciDevice| {
        device.id == ID && device.driver.as_deref().is_some_and(|driver| driver.contains("vfio"))
    };
    devices.into_iter().find(usable).map(|device| device.address)
}
