//! What only a real kernel can show. Runs on a POWER machine whose groups are bound to vfio-pci:
//!
//! `ppc64/run --machine powernv9 --kernel 6.12-64k -- kernel`

mod device;
mod forks;
mod inspect;
mod kills;
mod plan;
mod process;
mod victim;
mod vmm;
mod windows;
mod worker;

use libtest_mimic::{Arguments, Failed, Trial};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, UserRange};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Host, Memory};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::AddressSpace;
use spapr_iommu_tests::by_address::ByAddress;
use spapr_iommu_tests::machine;
use std::process::ExitCode;
use std::sync::Arc;

/// Start of powernv's second window, and of QEMU's dynamic window.
const BIG: u64 = 1 << 59;
const RAM: u64 = 16 << 20;
const ROUNDS: u32 = 5;
/// Tolerance of free memory: each leak would be `RAM` or more.
const NOISE: u64 = 8 << 20;

/// Everything in use: two containers, both windows, mapped.
struct Busy {
    host: Arc<Vfio>,
    ram: UserRange,
    space: AddressSpace,
    lease: Lease,
}

impl Busy {
    fn new() -> Result<Self, Failed> {
        let host = Arc::new(Vfio::new());
        let groups = groups(&host)?;
        let ram = host.allocate(RAM, host.page_shift())?;
        let registry = Registry::new(host.clone());
        let space = AddressSpace::new(&registry);
        space.attach(groups[0])?;
        let lease = registry.lease(ram)?;
        for start in [0, BIG] {
            space.map(IovaRange::new(Iova(start), RAM)?, ram.start(), Permission::ReadWrite)?;
        }
        space.attach(groups[1])?;
        Ok(Self { host, ram, space, lease })
    }

    fn end(self) -> Result<(), Failed> {
        let Self { host, ram, space, lease } = self;
        drop((space, lease));
        Ok(host.free(ram)?)
    }
}

/// Returns the first two groups that VFIO can use.
fn groups(host: &Vfio) -> Result<[Group; 2], Failed> {
    let all: Vec<Group> = machine::groups(host).iter().map(|group| group.number).collect();
    match all[..] {
        [first, second, ..] => Ok([first, second]),
        _ => Err(format!("two groups with vfio-pci are needed, there are {all:?}").into()),
    }
}

/// Rounds in which everything is used leave locked memory, files and free memory unchanged.
fn rounds_leave_nothing() -> Result<(), Failed> {
    Busy::new()?.end()?;
    let before = (process::locked()?, process::files()?, process::free()?);
    for _ in 0..ROUNDS {
        let busy = Busy::new()?;
        if process::locked()? < RAM {
            return Err("registered memory is not locked".into());
        }
        busy.end()?;
    }
    let after = (process::locked()?, process::files()?, process::free()?);
    if (before.0, before.1) != (after.0, after.1) {
        return Err(format!("locked bytes and files: {before:?} before, {after:?} after").into());
    }
    process::none_lost(before.2, after.2, NOISE)
}

/// A process that is killed, or panics, while it uses everything leaves free memory unchanged.
fn victims_leave_nothing(how: victim::How) -> Result<(), Failed> {
    victim::run(how)?;
    let before = process::free()?;
    for _ in 0..ROUNDS {
        victim::run(how)?;
    }
    process::none_lost(before, process::free()?, NOISE)
}

/// The kernel keeps a region that is still mapped when its lease is dropped, and frees it with the
/// last TCE.
fn the_kernel_keeps_what_is_mapped() -> Result<(), Failed> {
    let before = process::locked()?;
    let Busy { host, ram, space, lease } = Busy::new()?;
    let Err(refused) = lease.release() else { return Err("a lease went while its memory is mapped".into()) };
    if refused.mapped.len() != 2 {
        return Err(format!("{:?}", refused.mapped).into());
    }
    drop(refused);
    let with_ram = process::locked()?;
    for start in [0, BIG] {
        space.unmap(IovaRange::new(Iova(start), RAM)?)?;
    }
    if process::locked()? + RAM != with_ram {
        return Err(format!("{with_ram} bytes locked with the memory, {} without", process::locked()?).into());
    }
    drop(space);
    if process::locked()? != before {
        return Err(format!("{before} bytes locked before, {} after", process::locked()?).into());
    }
    Ok(host.free(ram)?)
}

fn main() -> ExitCode {
    if let Some(how) = victim::asked() {
        return victim::die(how);
    }
    if let Some(socket) = inspect::asked() {
        return inspect::look(socket);
    }
    if let Some(seed) = worker::asked() {
        return worker::work(seed);
    }
    let tests = vec![
        Trial::test("a_device_is_opened_for_a_driver", device::a_device_is_opened_for_a_driver),
        Trial::test("intx_arrives_masked_until_rearmed", device::intx_arrives_masked_until_rearmed),
        Trial::test("msi_arrives_while_the_device_has_the_bus", device::msi_arrives_while_the_device_has_the_bus),
        Trial::test("a_panic_takes_the_device_off_the_bus", device::a_panic_takes_the_device_off_the_bus),
        Trial::test("a_device_is_reset_and_recovered", device::a_device_is_reset_and_recovered),
        Trial::test("errors_are_injected_where_the_platform_can", device::errors_are_injected_where_the_platform_can),
        Trial::test(
            "a_child_that_drops_everything_changes_nothing",
            forks::a_child_that_drops_everything_changes_nothing,
        ),
        Trial::test("memory_for_devices_is_the_parents", forks::memory_for_devices_is_the_parents),
        Trial::test("a_bar_is_mapped", vmm::a_bar_is_mapped),
        Trial::test("interrupts_go_to_eventfds", vmm::interrupts_go_to_eventfds),
        Trial::test("a_bar_without_memory_decode_is_an_error", vmm::a_bar_without_memory_decode_is_an_error),
        Trial::test("files_are_handed_in", vmm::files_are_handed_in),
        Trial::test("edu_moves_memory_without_the_default_window", device::edu_moves_memory_without_the_default_window),
        Trial::test(
            "a_dynamic_window_starts_at_2_to_the_59_without_the_default_one",
            windows::a_dynamic_window_starts_at_2_to_the_59_without_the_default_one,
        ),
        Trial::test(
            "what_cannot_be_locked_is_refused_before_anything_is_touched",
            windows::what_cannot_be_locked_is_refused_before_anything_is_touched,
        ),
        Trial::test("another_process_sees_what_is_mapped", inspect::another_process_sees_what_is_mapped),
        Trial::test("a_plan_is_what_the_kernel_charges", plan::a_plan_is_what_the_kernel_charges),
        Trial::test("rounds_leave_nothing", rounds_leave_nothing),
        Trial::test("the_kernel_keeps_what_is_mapped", the_kernel_keeps_what_is_mapped),
        Trial::test("a_killed_process_leaves_nothing", || victims_leave_nothing(victim::How::Killed)),
        Trial::test("a_panic_leaves_nothing", || victims_leave_nothing(victim::How::Panics)),
        Trial::test("killed_at_any_moment", kills::killed_at_any_moment),
    ];
    // A group has one opener at a time.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, tests).exit_code()
}
