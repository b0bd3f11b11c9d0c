//! Parses a scenario file: text in, scenario out, or the position of the first mistake.
//!
//! The syntax is checked as the text is read. What remains is checked here: that names exist, and
//! that ranges fit.

use super::action::{Action, MAIN, Map, Name, WindowArguments};
use super::file::{FileError, Hole, Memory, Protected, Scenario, Step};
use super::value::{Mistake, Offset, OneOrMany, Place, Size, Target, is_name};
use core::ops::Range;
use spapr_iommu::addr::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

impl Scenario {
    /// Parses a scenario. Everything that needs no host is checked here: words, numbers, names.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let mut scenario: Self = toml::from_str(text).map_err(|error| {
            let message = error.message().trim_end().replace('\n', "; ");
            FileError::new(text, error.span().map_or(0, |span| span.start), message)
        })?;
        let wrong = |(span, message): Mistake| FileError::new(text, span.start, message);
        let lines = Lines::new(text);
        for step in &mut scenario.steps {
            step.line = lines.number(step.span.start);
            if let Some(mistake) = step.mistake.take() {
                return Err(wrong(mistake));
            }
        }
        for line in &mut scenario.raw {
            line.number = lines.number(line.span.start);
            if let Some(mistake) = line.mistake.take() {
                return Err(wrong(mistake));
            }
        }
        check(&scenario).map_err(wrong)?;
        Ok(scenario)
    }
}

/// The default window, a name that every space has.
pub(super) const DEFAULT: &str = "default";

/// Names that earlier steps defined.
#[derive(Default)]
struct Known<'a> {
    /// Memories with their sizes.
    memory: BTreeMap<&'a str, u64>,
    leases: BTreeSet<&'a str>,
    windows: BTreeSet<&'a str>,
    spaces: BTreeSet<&'a str>,
}

type Checked = Result<(), Mistake>;

fn check(scenario: &Scenario) -> Checked {
    if let (Some(line), false) = (scenario.raw.first(), scenario.steps.is_empty()) {
        let message =
            "this file has `[[step]]`, which goes through the library: put raw steps into a file of their own";
        return wrong(line.span.clone(), message);
    }
    if let (true, Some(memory)) = (scenario.is_raw(), scenario.memory.first()) {
        return wrong(memory.name.span(), "raw steps have memory of their own: get it with `allocate`");
    }
    let mut known = Known::default();
    for memory in &scenario.memory {
        known.enter_memory(memory)?;
    }
    scenario.steps.iter().try_for_each(|step| known.step(step))
}

fn wrong(span: Range<usize>, message: impl Into<String>) -> Checked {
    Err((span, message.into()))
}

fn new_name<'a>(name: &'a Name, is_taken: impl Fn(&str) -> bool, what: &str) -> Result<&'a str, Mistake> {
    let text = name.get_ref().as_str();
    if !is_name(text) {
        return Err((
            name.span(),
            format!("{text:?} is not a name: use letters, digits, - and _, and begin with a letter"),
        ));
    }
    if is_taken(text) {
        Err((name.span(), format!("there is {what} {text:?} already: give it another name")))
    } else {
        Ok(text)
    }
}

/// Names that an error lists.
const MAX_LISTED: usize = 16;

fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names = names.into_iter();
    let first: Vec<_> = names.by_ref().take(MAX_LISTED).collect();
    match (first.is_empty(), names.count()) {
        (true, _) => "none".into(),
        (false, 0) => first.join(", "),
        (false, more) => format!("{}, and {more} more", first.join(", ")),
    }
}

impl<'a> Known<'a> {
    fn enter_memory(&mut self, memory: &'a Memory) -> Checked {
        let name = new_name(&memory.name, |name| self.memory.contains_key(name), "a memory")?;
        let Size(size) = *memory.size.get_ref();
        if memory.page.is_some_and(|page| size % page.0.bytes() != 0) {
            return wrong(memory.size.span(), "the size is not a multiple of the page");
        }
        self.memory.insert(name, size);
        for hole in &memory.holes {
            let Hole { offset, size } = hole.get_ref();
            self.within(name, hole.span(), *offset, Some(*size))?;
        }
        for part in &memory.protect {
            let Protected { offset, size, .. } = part.get_ref();
            self.within(name, part.span(), *offset, Some(*size))?;
        }
        Ok(())
    }

    /// Checks that a part lies in its memory.
    fn within(&self, name: &str, span: Range<usize>, Offset(offset): Offset, size: Option<Size>) -> Checked {
        let Some(all) = self.memory.get(name) else {
            let known = listed(self.memory.keys().copied());
            return wrong(span, format!("there is no memory {name:?} (memory: {known})"));
        };
        let end = offset.checked_add(size.map_or(1, |size| size.0));
        if end.is_some_and(|end| end <= *all) {
            return Ok(());
        }
        wrong(span, format!("this reaches past the end of {name}, which is {} long", Bytes(*all)))
    }

    fn part(&self, name: &Name, offset: Offset, size: Option<Size>) -> Checked {
        self.within(name.get_ref(), name.span(), offset, size)
    }

    fn place(&self, at: &Spanned<Place>) -> Checked {
        let Some(window) = at.get_ref().window.as_deref().filter(|window| *window != DEFAULT) else { return Ok(()) };
        if self.windows.contains(window) {
            return Ok(());
        }
        let known = listed(self.windows.iter().copied().chain([DEFAULT]));
        wrong(at.span(), format!("no earlier step makes a window {window:?} (windows: {known})"))
    }

    fn space(&self, space: &Option<Name>, span: &Range<usize>) -> Checked {
        let name = space.as_ref().map_or(MAIN, |name| name.get_ref());
        if self.spaces.contains(name) {
            return Ok(());
        }
        let span = space.as_ref().map_or(span.clone(), |name| name.span());
        let known = listed(self.spaces.iter().copied());
        wrong(span, format!("no earlier step attaches a group to the space {name:?} (spaces: {known})"))
    }

    fn enter_window(&mut self, name: &'a Option<Name>) -> Checked {
        if let Some(name) = name {
            let is_taken = |name: &str| name == DEFAULT || self.windows.contains(name);
            self.windows.insert(new_name(name, is_taken, "a window")?);
        }
        Ok(())
    }

    fn window(&mut self, window: &'a WindowArguments, step: &Range<usize>) -> Checked {
        self.space(&window.space, step)?;
        match (&window.size, &window.cover) {
            (Some(_), None) => Ok(()),
            (None, Some(cover)) => self.place(&cover.at),
            _ => wrong(step.clone(), "give either `size`, or `cover` with the bus addresses it must hold"),
        }
    }

    fn maps(&self, maps: &[Map], step: &Range<usize>) -> Checked {
        let Some(first) = maps.first() else { return Ok(()) };
        for map in maps {
            self.space(&map.space, step)?;
            self.place(&map.at)?;
            self.part(&map.memory, map.offset, map.size)?;
            let same =
                |other: &Map| other.space.as_ref().map(Spanned::get_ref) == map.space.as_ref().map(Spanned::get_ref);
            if !same(first) || first.replace != map.replace {
                return wrong(map.at.span(), "all maps of one step have the same `space` and the same `replace`");
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &'a Step) -> Checked {
        let span = &step.span;
        match &step.action {
            Action::Attach(attach) => {
                let name = match &attach.space {
                    Some(space) => new_name(space, |_| false, "a space")?,
                    None => MAIN,
                };
                self.spaces.insert(name);
                Ok(())
            }
            Action::Detach(detach) => self.space(&detach.space, span),
            Action::Register(OneOrMany(parts)) => {
                for register in parts {
                    self.part(&register.memory, register.offset, register.size)?;
                    if let Some(lease) = &register.lease {
                        self.leases.insert(new_name(lease, |name| self.leases.contains(name), "a lease")?);
                    }
                }
                Ok(())
            }
            Action::Release(release) => {
                let name = release.lease.get_ref().as_str();
                if self.leases.contains(name) {
                    return Ok(());
                }
                let known = listed(self.leases.iter().copied());
                wrong(release.lease.span(), format!("no earlier step makes a lease {name:?} (leases: {known})"))
            }
            Action::Window(window) => {
                self.window(window, span)?;
                self.enter_window(&window.name)
            }
            Action::Plan(window) => match &window.name {
                Some(name) => wrong(name.span(), "a plan makes no window, so it has no name"),
                None => self.window(window, span),
            },
            Action::RemoveWindow(at) => self.space(&at.space, span).and_then(|()| self.place(&at.at)),
            Action::DropDefault(of) | Action::Trim(of) => self.space(&of.space, span),
            Action::Reserve(reserve) => {
                self.space(&reserve.space, span)?;
                self.place(&reserve.at)?;
                self.enter_window(&reserve.name)
            }
            Action::Unreserve(at) | Action::Unmap(at) => self.space(&at.space, span).and_then(|()| self.place(&at.at)),
            Action::Map(OneOrMany(maps)) => self.maps(maps, span),
            Action::Translate(translate) => {
                self.space(&translate.space, span)?;
                self.place(&translate.at)?;
                match translate.gives.get_ref() {
                    Target::Nothing => Ok(()),
                    Target::Memory { name, offset } => self.within(name, translate.gives.span(), Offset(*offset), None),
                }
            }
            Action::Fill(fill) => self.part(&fill.memory, fill.offset, fill.size),
            Action::Check(check) => {
                self.part(&check.memory, check.offset, check.size)?;
                let kinds = [check.pattern.is_some(), check.not_pattern.is_some(), check.zero];
                match kinds.into_iter().filter(|given| *given).count() {
                    1 => Ok(()),
                    _ => wrong(span.clone(), "give one of `pattern`, `not-pattern` and `zero = true`"),
                }
            }
            Action::Dma(dma) => {
                self.space(&dma.space, span)?;
                self.place(&dma.from)?;
                self.place(&dma.to)
            }
            Action::Punch(part) => self.part(&part.memory, part.offset, part.size),
            Action::Protect(protect) => self.part(&protect.memory, protect.offset, protect.size),
            Action::Show(_) => Ok(()),
        }
    }
}

/// Ends of the lines of a text.
struct Lines {
    /// Offsets of the line ends, in order.
    ends: Vec<usize>,
}

impl Lines {
    /// Scans the text once; a lookup then takes a few comparisons.
    fn new(text: &str) -> Self {
        Self { ends: memchr::memchr_iter(b'\n', text.as_bytes()).collect() }
    }

    /// Returns the line of the byte at `offset`, from 1. A line end belongs to the line it ends.
    fn number(&self, offset: usize) -> usize {
        1 + self.ends.partition_point(|end| *end < offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_more_than_the_ends_before_it() {
        for text in ["", "\n", "one", "one\ntwo", "\n\na\nb\n", "é\nü"] {
            let lines = Lines::new(text);
            for offset in 0..=text.len() + 2 {
                let before = &text.as_bytes()[..offset.min(text.len())];
                let counted = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                assert_eq!(lines.number(offset), counted, "{text:?} at {offset}");
            }
        }
    }
}
