//! The contract of the kernel's sPAPR VFIO interface, one named test a rule: what the bare call
//! does, on the kernel at hand and on the model that is like it, and what the library does instead.
//! `docs/kernel-contract.md` tells it, `rules.rs` lists it.
//!
//! ```text
//! cargo test --test contract                                                       # on models of all machines
//! ppc64/run --machine powernv9 --kernel 6.12-64k -- contract                       # on a real kernel and its model
//! ppc64/run … --allow-warnings --leak-tolerance 1000000 -- contract --scars        # what leaves scars
//! ppc64/run … --expect-oops -- contract --fatal NAME                               # what ends the machine
//! ppc64/run … -- contract --refused NAME                                           # the library, asked for the same
//! ```
//!
//! A rule is one function that both kinds of kernel run, so that they cannot drift apart.

mod backing;
mod bare;
mod core;
mod create;
mod create_pseries;
mod eeh;
mod fixture;
mod info;
mod kernel;
mod locked;
mod map;
mod ownership;
mod pages;
mod raw;
mod register;
mod remove;
mod rule;
mod rules;
mod sharing;
mod traps;
mod unmap;
mod unregister;
mod v1;

use clap::Parser;
use libtest_mimic::Arguments;
use spapr_iommu::model::Preset;
use std::process::ExitCode;

/// Shows every rule of the kernel's sPAPR VFIO interface.
#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    arguments: Arguments,
    /// Instead: make the calls that leave scars on a real machine, each in a process of its own
    #[arg(long)]
    scars: bool,
    /// Make the calls of a rule that ends the machine
    #[arg(long, value_name = "NAME")]
    fatal: Option<String>,
    /// Ask the library for what that rule does
    #[arg(long, value_name = "NAME")]
    refused: Option<String>,
    /// The model like this machine [default: found out; firmware with other page sizes cannot be]
    #[arg(long)]
    preset: Option<Preset>,
    /// Show one rule in this process
    #[arg(long, value_name = "NAME", hide = true)]
    alone: Option<String>,
    /// The first group that it may use
    #[arg(long, default_value_t = 0, hide = true)]
    group: usize,
}

fn main() -> ExitCode {
    if let Some(said) = bare::stranger() {
        return said.map_or_else(
            |why| {
                eprintln!("{why}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        );
    }
    let options = Options::parse();
    if let Some(name) = options.alone.as_deref() {
        return rule::alone(name, options.preset, options.group, fixture::Part::Whole);
    }
    if let Some(name) = options.fatal.as_deref() {
        return rule::alone(name, options.preset, 0, fixture::Part::Bare);
    }
    if let Some(name) = options.refused.as_deref() {
        return rule::alone(name, options.preset, 0, fixture::Part::Library);
    }
    // On a real machine a group has one opener at a time; models have a machine each.
    match rule::trials(options.preset, options.scars) {
        Ok(trials) => {
            let one = spapr_iommu::host::Host::platform(&spapr_iommu::host::vfio::Vfio::new()).map(|_| 1);
            let test_threads = one.or(options.arguments.test_threads);
            let arguments = Arguments { test_threads, ..options.arguments };
            libtest_mimic::run(&arguments, trials).exit_code()
        }
        Err(error) => {
            eprintln!("contract: {error}");
            ExitCode::FAILURE
        }
    }
}
