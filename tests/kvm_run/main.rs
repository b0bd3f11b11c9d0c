//! When `KVM_RUN` loses floating-point and vector registers of the thread that calls it.
//!
//! A system call keeps f14 to f31 and v20 to v31 (OpenPOWER ELFv2 ABI). A guest of a few
//! instructions shows when this one does not: at exits within which the thread was switched out and
//! in again. Then its registers hold those of the guest, so it is the host's kernel that loses
//! them. Runs on a POWER machine with KVM:
//!
//! `ppc64/run --machine powernv9 --kernel 6.12-64k --kvm -- kvm-run`

#[cfg(target_arch = "powerpc64")]
mod guest;

use std::process::ExitCode;

#[cfg(target_arch = "powerpc64")]
fn main() -> ExitCode {
    match shown() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvm-run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Elsewhere there is no such guest.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> ExitCode {
    eprintln!("kvm-run: needs a POWER machine with KVM: ppc64/run --kvm");
    ExitCode::FAILURE
}

/// Exits by whether the thread was switched out during the call.
#[cfg(target_arch = "powerpc64")]
#[derive(Default)]
struct Exits {
    all: u32,
    lost: u32,
    /// Exits after which the thread had the guest's registers.
    guests: u32,
}

#[cfg(target_arch = "powerpc64")]
fn shown() -> Result<(), Box<dyn std::error::Error>> {
    use guest::{Guest, Marks};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Loops of the guest between two exits: too few to be switched out, and many.
    const FEW: u64 = 1;
    const MANY: u64 = 5_000_000;
    const ROUNDS: [(u64, u32); 2] = [(FEW, 500), (MANY, 100)];
    const OURS: Marks = Marks::of(0x4b56_4d5f_5255_4e21);
    const THEIRS: Marks = Marks::of(0x6775_6573_7421_2121);

    let mut guest = Guest::new(&THEIRS)?;
    // Not switched, switched.
    let mut exits = [Exits::default(), Exits::default()];
    for (loops, times) in ROUNDS {
        let done = AtomicBool::new(loops == FEW);
        std::thread::scope(|scope| -> std::io::Result<()> {
            // Wants the processor as well.
            scope.spawn(|| while !done.load(Ordering::Relaxed) {});
            let result = (0..times).try_for_each(|_| {
                let before = switches()?;
                let after = guest.run(loops, &OURS)?;
                let exits = &mut exits[usize::from(switches()? != before)];
                exits.all += 1;
                exits.lost += u32::from(after != OURS);
                exits.guests += u32::from(after == THEIRS);
                Ok(())
            });
            done.store(true, Ordering::Relaxed);
            result
        })?;
    }
    let [kept, switched] = &exits;
    for (what, exits) in [("not switched out", kept), ("switched out", switched)] {
        println!(
            "{} exits of a thread that was {what}: registers lost at {}, the guest's found at {}",
            exits.all, exits.lost, exits.guests
        );
    }
    if kept.all == 0 || switched.all == 0 {
        return Err("one of both kinds of exits did not occur".into());
    }
    if kept.lost > 0 || switched.lost != switched.guests {
        return Err("registers are lost in another way than docs/guest.md says".into());
    }
    Ok(())
}

/// How often the calling thread was switched out.
#[cfg(target_arch = "powerpc64")]
fn switches() -> std::io::Result<i64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(usage.voluntary_context_switches() + usage.involuntary_context_switches())
}
