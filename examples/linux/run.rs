//! Runs the guest to its end: a thread for each processor.

use super::cpus::End;
use super::exits::Kind;
use super::kvm::{Exit, Vcpu};
use super::machine::Machine;
use super::{function, hcall};
use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

/// Runs the guest from one boot to its end, or until `limit` has passed.
pub(crate) fn run(machine: &Machine, vcpus: &mut [Vcpu], limit: Duration) -> End {
    let began = Instant::now();
    let mut end = thread::scope(|scope| {
        let run = |(number, vcpu): (usize, &mut Vcpu)| {
            if let Err(error) = run_vcpu(machine, number, vcpu) {
                machine.cpus.end(End::Failed(format!("processor {number}: {error}")));
            }
        };
        let threads: Vec<_> = vcpus.iter_mut().enumerate().map(|vcpu| scope.spawn(move || run(vcpu))).collect();
        let ended = || threads.iter().all(|thread| thread.is_finished());
        let end = loop {
            match machine.cpus.wait_for_end() {
                Some(end) => break end,
                None if ended() => break End::Failed("the processors' threads ended".into()),
                None if began.elapsed() >= limit => break End::Hung(String::new()),
                None => {}
            }
        };
        machine.cpus.end(end.clone());
        while !ended() {
            machine.cpus.kick();
            thread::sleep(Duration::from_millis(1));
        }
        end
    });
    if let End::Hung(places) = &mut end {
        // No processor is in the guest now, so their registers can be read.
        *places = machine.cpus.places();
    }
    end
}

/// Runs one processor whenever it is started.
fn run_vcpu(machine: &Machine, number: usize, vcpu: &mut Vcpu) -> Result<(), Box<dyn Error>> {
    machine.cpus.enter(number)?;
    while let Some(registers) = machine.cpus.wait_for_start(number) {
        vcpu.file().set_registers(&registers)?;
        while machine.cpus.runs(number) {
            step(machine, number, vcpu)?;
        }
        // The results of the last call belong to a processor that has stopped, not to one that
        // starts.
        vcpu.finish()?;
    }
    Ok(())
}

/// Runs the processor to its next exit, and handles the exit.
fn step(machine: &Machine, number: usize, vcpu: &mut Vcpu) -> Result<(), Box<dyn Error>> {
    let inside = machine.gate.enter();
    let exit = vcpu.run()?;
    drop(inside);
    match exit {
        Exit::Hcall { nr, mut args } => {
            let code = hcall::answer(machine, number, nr, &mut args);
            vcpu.answer_hcall(code, args);
        }
        Exit::Load { at, len } => {
            machine.exits.count(Kind::Load);
            vcpu.answer_load(&function::load(machine.functions(), at, len));
        }
        Exit::Store { at, data } => {
            machine.exits.count(Kind::Store);
            function::store(machine.functions(), at, &data);
        }
        Exit::Interrupted => machine.exits.count(Kind::Interrupted),
        Exit::Other(reason) => return Err(format!("KVM exit {reason}: {:x?}", vcpu.file().registers()?).into()),
    }
    Ok(())
}
