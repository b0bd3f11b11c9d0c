//! `run --inspect`: lets `spapr-iommu inspect` see a run.

use super::output::TICK;
use super::terminal::{chain, say};
use crate::scenario::{Observer, RunState, StepReport};
use spapr_iommu::inspect::{Inspector, Server};
use spapr_iommu::space::AddressSpace;
use std::collections::BTreeSet;
use std::io;
use std::thread;

/// Shows a run to inspections, on behalf of another observer.
pub(super) struct Inspected<'a> {
    inner: &'a mut dyn Observer,
    /// Whether it is shown.
    wanted: bool,
    /// Names of the spaces that are shown.
    names: BTreeSet<String>,
    inspector: Option<Inspector>,
    server: Option<Server>,
}

impl<'a> Inspected<'a> {
    pub(super) fn new(inner: &'a mut dyn Observer, wanted: bool) -> Self {
        Self { inner, wanted, names: BTreeSet::new(), inspector: None, server: None }
    }

    /// Shows a space; the first one has the registry.
    fn show(&mut self, name: &str, space: &AddressSpace) {
        if !self.wanted || !self.names.insert(name.to_owned()) {
            return;
        }
        if self.inspector.is_none() {
            let inspector = Inspector::new(space.registry());
            match inspector.listen() {
                Ok(server) => self.server = Some(server),
                Err(error) => say(format_args!("this run cannot be inspected: {}", chain(&error))),
            }
            self.inspector = Some(inspector);
        }
        if let Some(inspector) = &self.inspector {
            inspector.add_space(name, space);
        }
    }
}

impl Observer for Inspected<'_> {
    fn ends_run(&mut self) -> bool {
        self.inner.ends_run()
    }

    fn begins(&mut self, number: usize, count: usize, action: &str) {
        self.inner.begins(number, count, action);
    }

    fn progress(&mut self, done: u64, all: u64) {
        self.inner.progress(done, all);
    }

    fn before_step(&mut self, state: &RunState<'_>) {
        self.inner.before_step(state);
    }

    fn after_step(&mut self, state: &RunState<'_>) {
        state.spaces().for_each(|(name, space)| self.show(name, space));
        self.inner.after_step(state);
    }

    fn before_release(&mut self, state: &RunState<'_>) {
        self.inner.before_release(state);
        if self.server.is_some() {
            let pid = std::process::id();
            say(format_args!("Look at it with `spapr-iommu inspect {pid}`. Enter releases everything."));
            // A failed read counts as Enter.
            let enter = thread::spawn(|| io::stdin().read_line(&mut String::new()));
            while !enter.is_finished() && !self.inner.ends_run() {
                thread::sleep(TICK);
            }
        }
    }

    fn done(&mut self, step: &StepReport) {
        self.inner.done(step);
    }
}
