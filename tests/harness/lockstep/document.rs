//! Writes a difference as a scenario: the steps that lead to it, with the model's answers.

use super::episode::Difference;
use super::guard;
use super::side::{Outcome, Side, fresh_model};
use super::slots::{Step, Where};
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::model::{Model, Preset};
use spapr_iommu::uapi::{spapr, vfio};
use spapr_iommu_cli::scenario::raw::{self, Entry};

const HOW: &str = "\
# The shortest sequence that differs: save what follows, up to the end mark, as difference.toml, and replay it by
#     spapr-iommu run difference.toml
#     ppc64/run --machine MACHINE --kernel KERNEL -- spapr-iommu run --host vfio --raw difference.toml
";
pub const END: &str = "# end of difference.toml\n";

/// Returns the text of a file that shows a difference after these steps, of which the last one
/// differed.
pub fn document(preset: Preset, title: &str, steps: &[Step], difference: &Difference) -> Result<String, String> {
    let mut model = Recorder { model: fresh_model(preset)?, locked: 0, entries: Vec::new() };
    for (at, step) in steps.iter().enumerate() {
        let real = (at + 1 == steps.len()).then_some(&difference.real);
        model.step(step, real);
    }
    model.look(difference);
    for step in guard::wind_down(&model.model).unwrap_or_default() {
        model.step(&step, None);
    }
    let text = raw::document(title, Some(&difference.to_string()), Some(preset), &model.entries);
    Ok(format!("{HOW}\n{text}\n{END}"))
}

struct Recorder {
    model: Side<Model>,
    locked: i128,
    entries: Vec<Entry>,
}

impl Recorder {
    /// Adds a step; `real` is the other side's result, if it differs.
    fn step(&mut self, step: &Step, real: Option<&Outcome>) {
        let outcome = self.model.apply(step);
        let other = real.and_then(|real| real.call.as_ref());
        let mut entry = Entry::new(*step, outcome.result).giving(outcome.call.as_ref(), other);
        if outcome.locked != self.locked || real.is_some_and(|real| real.locked != outcome.locked) {
            entry.locked = u64::try_from(outcome.locked).ok();
        }
        self.locked = outcome.locked;
        self.entries.push(entry);
    }

    /// Adds what was seen after the last step, if the other side saw something else.
    fn look(&mut self, difference: &Difference) {
        let Difference { model, real, .. } = difference;
        for (slot, result, after) in model.seen.iter().filter(|seen| !real.seen.contains(seen)) {
            let asked = match after {
                Call::TceGetInfo(_) => Call::TceGetInfo(spapr::TceInfo { argsz: 32, ..Default::default() }),
                _ => Call::GroupGetStatus(vfio::GroupStatus { argsz: 8, ..Default::default() }),
            };
            let other = real.seen.iter().find(|(there, ..)| there == slot).map(|(_, _, call)| call);
            let step = Step::Call { file: *slot, call: asked, user: Where::Fixed(0) };
            self.entries.push(Entry::new(step, *result).giving(Some(after), other));
        }
        let differ = model.contents.iter().zip(&real.contents).map(|(here, there)| here != there);
        for ((slot, range), _) in self.model.small_memory().zip(differ).filter(|(_, differ)| *differ) {
            let parts = raw::contents(&self.model.host, slot, range);
            let check = |(part, byte)| Entry::new(Step::Check(part, byte), Ok::<_, Errno>(0));
            self.entries.extend(parts.into_iter().map(check));
        }
    }
}
