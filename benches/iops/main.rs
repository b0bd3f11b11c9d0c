//! Measures random reads of 4 KiB by the driver of `examples/nvme`, compared with the kernel's NVMe
//! driver on the same disk in the same boot.
//!
//! io_uring uses the kernel's driver with what makes it fast: O_DIRECT, registered file and
//! buffers, one issuer, work deferred to the call that waits. The disk goes back and forth between
//! the drivers, round by round. Each reads the same blocks in the same order and checks that they
//! hold what was written there. **Data on the disk is lost.**
//!
//! ```text
//! ppc64/run --machine powernv9 --kernel 6.12-64k --device nvme --host-driver -- iops
//! ppc64/run --machine pseries --kernel 6.12-64k --memory 2G,slots=1,maxmem=4G --device nvme --host-driver -- iops
//! ```
//!
//! QEMU gives each read to a thread of a pool. With
//! `--qemu-arg=-set --qemu-arg=drive.disk0.aio=io_uring` it does not, and the disk is faster.
//!
//! On pseries the machine needs room for more memory: without it Linux asks the firmware for a
//! window of size 0 when its own driver starts. The firmware refuses, and Linux then creates no
//! window for that device any longer.

#[path = "../../examples/nvme/driver/mod.rs"]
mod driver;
mod ours;
mod processor;
mod uring;

use driver::Wait;
use processor::Measured;
use spapr_iommu::host::vfio::bind::Binder;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a read.
pub(crate) const PAGE: usize = 4096;
/// Number of pages of the disk that are read, at its start: 64 MiB.
const PAGES: u64 = 16384;
/// Number of rounds, each with both drivers.
const ROUNDS: usize = 7;
/// Commands in flight, and number of reads measured.
const RUNS: [(u16, usize); 2] = [(1, 4000), (32, 24000)];
/// Class of an NVMe controller, as sysfs shows it.
const CLASS: &str = "0x010802";

/// Checks one page of the disk: its number must match.
pub(crate) fn holds(first: u64, page: u64) -> Result<(), Box<dyn Error>> {
    if first == number(page) { Ok(()) } else { Err(format!("page {page} of the disk holds {first:#x}").into()) }
}

/// Returns the number stored at the beginning of a page.
fn number(page: u64) -> u64 {
    page ^ 0x5eed_5eed_5eed_5eed
}

/// Measurements of one kind.
#[derive(Debug, Default)]
struct Row(Vec<Measured>);

impl Row {
    /// Returns median, lowest and highest.
    fn iops(&self) -> (f64, f64, f64) {
        let mut all: Vec<f64> = self.0.iter().map(|run| run.iops).collect();
        all.sort_by(f64::total_cmp);
        (all[all.len() / 2], all[0], all[all.len() - 1])
    }

    fn print(&self, what: &str, beside: Option<f64>) {
        let (median, lowest, highest) = self.iops();
        let busy = self.0.iter().map(|run| run.busy).sum::<f64>() / self.0.len() as f64;
        let ratio = beside.map_or(String::new(), |theirs| format!("{:.2}", median / theirs));
        let range = format!("{lowest:.0} to {highest:.0}");
        println!("{what:34} {median:8.0}  {range:18} {:4.0} %  {ratio}", 100.0 * busy);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = controller()?;
    let binder = Binder::new();
    write_pages(&address)?;
    let mut rows: [[Row; 3]; RUNS.len()] = Default::default();
    for round in 0..ROUNDS {
        let mut rng = fastrand::Rng::with_seed(round as u64);
        let pages = RUNS.map(|(_, reads)| (0..reads).map(|_| rng.u64(0..PAGES)).collect::<Vec<_>>());
        let file = direct(&address)?;
        for (at, (depth, _)) in RUNS.into_iter().enumerate() {
            rows[at][0].0.push(uring::read(&file, depth, &pages[at])?);
        }
        drop(file);
        binder.bind(&address)?;
        for (at, (depth, _)) in RUNS.into_iter().enumerate() {
            for (row, wait) in [(1, Wait::Interrupts), (2, Wait::Polling)] {
                rows[at][row].0.push(ours::read(&address, depth, wait, &pages[at])?);
            }
        }
        binder.unbind(&address)?;
        eprintln!("round {} of {ROUNDS}", round + 1);
    }
    println!("{:34} {:>8}  {:18} {:>6}  ratio", "random reads of 4 KiB a second", "median", "range", "busy");
    for ((depth, _), [kernel, interrupts, polling]) in RUNS.iter().zip(&rows) {
        let theirs = kernel.iops().0;
        kernel.print(&format!("depth {depth}, kernel's driver"), None);
        interrupts.print(&format!("depth {depth}, this driver, interrupts"), Some(theirs));
        polling.print(&format!("depth {depth}, this driver, polling"), Some(theirs));
    }
    Ok(())
}

/// Returns the first NVMe controller.
fn controller() -> Result<String, Box<dyn Error>> {
    let mut addresses: Vec<_> = fs::read_dir("/sys/bus/pci/devices")?.flatten().map(|entry| entry.path()).collect();
    addresses.sort();
    let is_nvme = |path: &PathBuf| fs::read_to_string(path.join("class")).is_ok_and(|class| class.trim() == CLASS);
    let path = addresses.into_iter().find(is_nvme).ok_or("this machine has no NVMe controller: `--device nvme`")?;
    Ok(path.file_name().ok_or("a device without a name")?.to_string_lossy().into_owned())
}

/// Waits for the kernel's driver to provide the disk, which takes a moment, and returns its path.
fn disk(address: &str) -> Result<PathBuf, Box<dyn Error>> {
    let began = Instant::now();
    loop {
        let controllers = fs::read_dir(format!("/sys/bus/pci/devices/{address}/nvme")).into_iter().flatten().flatten();
        let parts = controllers.flat_map(|controller| fs::read_dir(controller.path()).into_iter().flatten().flatten());
        let mut names = parts.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let name = names.find(|name| name.starts_with("nvme") && name.ends_with("n1")).map(|name| without_path(&name));
        if let Some(path) = name.map(|name| Path::new("/dev").join(name)).filter(|path| path.exists()) {
            return Ok(path);
        }
        if began.elapsed() > Duration::from_secs(20) {
            return Err(format!("the kernel's driver has no disk of {address}: `ppc64/run --host-driver`").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns `nvme0n1` for `nvme0c1n1`: a disk that may have several paths has a name without them.
fn without_path(name: &str) -> String {
    let parts = name.split_once('c').and_then(|(subsystem, path)| Some((subsystem, path.split_once('n')?.1)));
    parts.map_or(name.to_owned(), |(subsystem, disk)| format!("{subsystem}n{disk}"))
}

/// Opens the disk without the page cache.
fn direct(address: &str) -> Result<File, Box<dyn Error>> {
    use std::os::unix::fs::OpenOptionsExt;
    Ok(File::options().read(true).custom_flags(nix::libc::O_DIRECT).open(disk(address)?)?)
}

/// Writes the data that reads check, with the kernel's driver.
fn write_pages(address: &str) -> Result<(), Box<dyn Error>> {
    let mut file = File::options().write(true).open(disk(address)?)?;
    let mut page = vec![0; PAGE];
    let mut rng = fastrand::Rng::with_seed(0);
    for n in 0..PAGES {
        rng.fill(&mut page);
        page[..8].copy_from_slice(&number(n).to_le_bytes());
        file.write_all(&page)?;
    }
    Ok(file.sync_all()?)
}
