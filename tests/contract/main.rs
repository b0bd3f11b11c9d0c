//! The contract of the kernel's sPAPR VFIO interface, one named test per rule: what the raw call
//! does, on the running kernel and on the model that is like it, and what the library does instead.
//! `docs/kernel-contract.md` describes the rules, `rules.rs` lists them.
//!
//! ```text
//! cargo test --test contract                                                       # on models of all machines
//! ppc64/run --machine powernv9 --kernel 6.12-64k -- contract                       # on a real kernel and its model
//! ppc64/run … --allow-warnings --leak-tolerance 1000000 -- contract --scars        # what leaves scars
//! ppc64/run … --expect-oops -- contract --fatal NAME                               # what crashes the machine
//! ppc64/run … -- contract --refused NAME                                           # the library, asked to do the same
//! ```
//!
//! A rule is one function that both kinds of kernel run, so that they cannot drift apart.

mod abi;
mod backing;
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

/// Shows every rule of the kernel's sPAPR VFIO interface
#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    arguments: Arguments,
    /// Instead make the calls that leave scars on a real machine, each in a process of its own
    #[arg(long)]
    scars: bool,
    /// Make the calls of a rule that crashes the machine
    #[arg(long, value_name = "NAME")]
    fatal: Option<String>,
    /// Ask the library for what that rule does
    #[arg(long, value_name = "NAME")]
    refused: Option<String>,
    /// The model like this machine [default: detected; page sizes that firmware adds cannot be]
    #[arg(long)]
    preset: Option<Preset>,
    /// Show one rule in this process
    #[arg(long, value_name = "NAME", hide = true)]
    alone: Option<String>,
    /// The first group that rule may use
    #[arg(long, default_value_t = 0, hide = true)]
    group: usize,
}

fn main() -> ExitCode {
    if let Some(said) = abi::stranger() {
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
        return rule::alone(name, options.preset, 0, fixture::Part::Raw);
    }
    if let Some(name) = options.refused.as_deref() {
        return rule::alone(name, options.preset, 0, fixture::Part::Library);
    }
    // On a real machine a group has one opener at a time; each model is a machine of its own.
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
