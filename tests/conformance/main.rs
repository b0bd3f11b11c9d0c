//! The model against the running kernel: the same random operations on both, and result, error
//! number and everything that can be seen compared after each. Runs on a POWER machine with two
//! groups bound to vfio-pci:
//!
//! `ppc64/run --machine powernv9 --kernel 6.12-64k -- conformance --ops 20000 --seed 1`
//!
//! The walk is made of episodes, each a function of the seed and its number: memory is allocated,
//! containers are made ready, random calls follow, everything is closed. What each step may do is
//! asked of a fork of the model first; steps that would crash, poison or lose something (a
//! [`Violation`](spapr_iommu::model::Violation)) or take too long are left out, and the summary
//! counts them by reason (`lockstep/guard.rs`). A difference ends the run: its episode is shrunk to
//! the shortest sequence of steps that still differs, and printed as a scenario of bare steps with
//! the model's answers, which `spapr-iommu run` replays.
//!
//! The calls that are left out each have a test of their own in `tests/contract`.

use clap::Parser;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::model::Preset;
use spapr_iommu_tests::lockstep::episode::Pair;
use spapr_iommu_tests::lockstep::run::{Amount, Summary, run};
use spapr_iommu_tests::lockstep::side::{Side, groups, shifted_model};
use spapr_iommu_tests::machine;
use std::process::ExitCode;

/// Compares the model with the running kernel, operation by operation.
#[derive(Debug, Parser)]
struct Options {
    /// Operations to compare
    #[arg(long, default_value_t = 5000)]
    ops: u64,
    /// Where the random walk starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The first episode
    #[arg(long, default_value_t = 0)]
    episode: u64,
    /// Operations of an episode
    #[arg(long, default_value_t = 400)]
    length: usize,
    /// One episode in that many opens devices and does DMA, 0 for none
    #[arg(long, default_value_t = 10)]
    dma_every: u64,
    /// The model to compare with [default: the one like this machine]
    #[arg(long)]
    preset: Option<Preset>,
    /// Compare the model with itself, on any machine
    #[arg(long = "self", requires = "preset")]
    itself: bool,
    /// Print the summary as a line of JSON at the end
    #[arg(long)]
    json: bool,
    /// Print each operation before it is done
    #[arg(long)]
    trace: bool,
    /// Do not look for the shortest sequence that differs
    #[arg(long)]
    no_shrink: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match compare(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<bool, String> {
    let mut amount = Amount {
        seed: options.seed,
        from: options.episode,
        ops: options.ops,
        length: options.length,
        dma_every: options.dma_every,
        trace: options.trace,
        shrink: !options.no_shrink,
        huge: Vec::new(),
    };
    let host = Vfio::new();
    let preset = match options.preset {
        Some(preset) => preset,
        None => machine::preset(&host)?,
    };
    if options.itself {
        amount.huge = preset.huge_pages().to_vec();
        let other = || shifted_model(preset);
        let summary = run(&Pair { model: preset, real: &other }, &amount, progress)?;
        let what = format!("model:{preset} with itself");
        return Ok(report(&summary, &amount, &what, options.json));
    }
    amount.huge = machine::huge_pages(preset.huge_pages());
    let groups = groups(&host)?;
    let real = || Ok(Side::new(Vfio::new(), groups.clone()));
    let summary = run(&Pair { model: preset, real: &real }, &amount, progress)?;
    let what = format!("model:{preset} with Linux {}", machine::release()?);
    Ok(report(&summary, &amount, &what, options.json))
}

fn progress(summary: &Summary) {
    if summary.episodes.is_power_of_two() || summary.episodes.is_multiple_of(32) {
        let rate = summary.tally.steps as f64 / summary.took.as_secs_f64();
        eprintln!("{} episodes, {} operations, {rate:.0}/s", summary.episodes, summary.tally.steps);
    }
}

fn report(summary: &Summary, amount: &Amount, what: &str, json: bool) -> bool {
    let tally = &summary.tally;
    for difference in &summary.differences {
        println!("{difference}");
    }
    for (name, kind) in &tally.kinds {
        println!("  {name:33} {:7} with 0 {:7} otherwise {:9.1?}", kind.well, kind.otherwise, kind.took);
    }
    let left: Vec<String> = tally.left_out.iter().map(|(why, count)| format!("{why} {count}")).collect();
    println!("  left out: {}", left.join(", "));
    println!("  {:.1?} looking round on the real side, {:.1?} in the model", tally.looking, tally.model);
    println!(
        "{what}: {} operations in {} episodes, {} transfers, {} differences, {:.1} s, {:.0} operations/s, seed {}",
        tally.steps,
        summary.episodes,
        tally.transfers,
        summary.differences.len(),
        summary.took.as_secs_f64(),
        tally.steps as f64 / summary.took.as_secs_f64(),
        amount.seed,
    );
    if json {
        let line = serde_json::json!({
            "what": what,
            "seed": amount.seed,
            "operations": tally.steps,
            "episodes": summary.episodes,
            "transfers": tally.transfers,
            "differences": summary.differences.len(),
            "seconds": summary.took.as_secs_f64(),
        });
        println!("{line}");
    }
    summary.differences.is_empty() && tally.steps >= amount.ops
}
