//! Shows a snapshot of a running process as tables.

use crate::command::section;
use spapr_iommu::addr::Bytes;
use spapr_iommu::inspect::{Guest, Hypercalls, Maps, PhbRow, Refusal, Regions, Snapshot, Space, WindowRow};

/// Formats a snapshot; with `only`, only that space's mapped runs.
pub(crate) fn draw(snapshot: &Snapshot, only: Option<&str>) -> String {
    let mut text = heading(snapshot);
    text += &regions(&snapshot.regions);
    let guests = || snapshot.guests.iter().flat_map(|guest| guest.phbs.iter().map(|phb| &phb.space));
    let spaces: Vec<&Space> = snapshot.spaces.iter().chain(guests()).collect();
    text += &groups(&spaces);
    text += &windows(&spaces);
    text += &maps(&spaces, only);
    for guest in &snapshot.guests {
        text += &guest_windows(guest);
    }
    text += &calls(snapshot, &spaces);
    text += &refusals(snapshot, &spaces);
    if snapshot.more_subjects != 0 {
        text += &format!("\nNot shown: {} more spaces or guests.\n", snapshot.more_subjects);
    }
    text.trim_end().to_owned()
}

fn heading(snapshot: &Snapshot) -> String {
    let process = &snapshot.process;
    let mut text = format!("Process {} ({})", process.pid, process.name);
    let Some(host) = &snapshot.host else { return text + ": its registry is gone\n" };
    text += &format!(": {}, {} pages\n", host.platform.as_deref().unwrap_or("not a POWER machine"), Bytes(host.page));
    if let Some(locked) = host.locked {
        let limit = match (locked.limit, locked.unlimited) {
            (Some(limit), false) => format!("limit {}", size(limit)),
            (Some(limit), true) => format!("limit {}, not enforced: CAP_IPC_LOCK", size(limit)),
            (None, _) => "no limit".into(),
        };
        text += &format!("Locked memory: {} ({limit})\n", size(locked.bytes));
    }
    text
}

/// Formats an amount that may be odd, in at most three digits and a unit, or exactly if that is
/// short.
fn size(bytes: u64) -> String {
    let exact = Bytes(bytes).to_string();
    if !exact.starts_with("0x") {
        return exact;
    }
    let unit = (bytes.ilog2() / 10).min(6);
    let value = bytes as f64 / (1u64 << (10 * unit)) as f64;
    format!("{value:.1}{}", ["", "K", "M", "G", "T", "P", "E"][unit as usize])
}

fn more(listed: usize, next: Option<u64>, all: u64, option: &str) -> String {
    let Some(next) = next else { return String::new() };
    format!(" {listed} of {all} shown; the next: {option} {next:#x}\n")
}

fn regions(regions: &Regions) -> String {
    let title = format!("Registered memory: {} regions, {}", regions.count, size(regions.bytes));
    let rows = regions.rows.iter().map(|row| {
        let user = format!("{:#x}", row.user);
        let sizes = [size(row.size), size(row.max_iommu_page)];
        let [bytes, page] = sizes;
        vec![user, bytes, page, row.leases.to_string(), size(row.mapped), row.containers.to_string()]
    });
    let headings = ["user address>", "size>", "page>", "leases>", "mapped>", "containers>"];
    section(&title, &headings, rows) + &more(regions.rows.len(), regions.next, regions.count, "--regions-from")
}

fn groups(spaces: &[&Space]) -> String {
    let rows = spaces.iter().flat_map(|space| {
        let row = |group: &spapr_iommu::inspect::GroupRow| {
            vec![space.name.clone(), group.group.to_string(), group.container.to_string()]
        };
        let busy = space.busy.then(|| vec![space.name.clone(), "busy".into(), String::new()]);
        space.groups.iter().map(row).chain(busy)
    });
    section("Groups", &["space", "group>", "container>"], rows)
}

fn windows(spaces: &[&Space]) -> String {
    let row = |space: &Space, window: &WindowRow| {
        let pending = if window.levels.is_none() { ", pending" } else { "" };
        vec![
            space.name.clone(),
            format!("{:#x}", window.start),
            size(window.size),
            size(window.page),
            window.levels.map_or("-".into(), |levels| levels.to_string()),
            format!("{}{pending}", window.origin),
            size(window.locked),
            size(window.mapped),
        ]
    };
    let rows = spaces.iter().flat_map(|space| space.windows.iter().map(|window| row(space, window)));
    section("Windows", &["space", "start>", "size>", "page>", "levels>", "origin", "table>", "mapped>"], rows)
}

fn maps(spaces: &[&Space], only: Option<&str>) -> String {
    let (runs, bytes) = spaces.iter().fold((0u64, 0u64), |(runs, bytes), space| {
        let Maps { runs: more, bytes: more_bytes, .. } = space.maps;
        (runs.saturating_add(more), bytes.saturating_add(more_bytes))
    });
    let rows = spaces.iter().flat_map(|space| {
        space.maps.rows.iter().map(|row| {
            let [iova, user] = [row.iova, row.user].map(|address| format!("{address:#x}"));
            vec![space.name.clone(), iova, size(row.size), user, row.access.clone()]
        })
    });
    let title = format!("Maps: {runs} runs, {}", size(bytes));
    let mut text = section(&title, &["space", "IOVA>", "size>", "user address>", "access"], rows);
    for space in spaces.iter().filter(|space| only.is_none_or(|only| only == space.name)) {
        let option = format!("--space {:?} --from", space.name);
        text += &more(space.maps.rows.len(), space.maps.next, space.maps.runs, &option);
        if space.stale != 0 {
            text += &format!(" {}: the kernel failed to remove {} mappings\n", space.name, space.stale);
        }
    }
    text
}

fn guest_windows(guest: &Guest) -> String {
    let ram = guest.slots.iter().fold(0u64, |bytes, slot| bytes.saturating_add(slot.size));
    let unplugging = guest.slots.iter().filter(|slot| slot.unplugging).count();
    let unplugging = if unplugging == 0 { String::new() } else { format!(", {unplugging} being removed") };
    let title = format!("Guest {}: {} RAM in {} slots{unplugging}", guest.name, size(ram), guest.all_slots);
    let rows = guest.phbs.iter().flat_map(|phb| {
        phb.windows.iter().map(|window| {
            let entries = match window.entries {
                Some(entries) if entries.all => entries.count.to_string(),
                Some(entries) => format!("{} or more", entries.count),
                None => "in the kernel".into(),
            };
            let [buid, liobn, start] = [phb.buid, window.liobn, window.start].map(|number| format!("{number:#x}"));
            vec![buid, liobn, start, size(window.size), size(window.page), entries]
        })
    });
    let mut text = section(&title, &["PHB>", "LIOBN>", "start>", "size>", "page>", "TCEs>"], rows);
    let calls = |name: String, calls: &Hypercalls| {
        let numbers = [calls.puts, calls.indirects, calls.stuffs, calls.gets, calls.tces];
        std::iter::once(name).chain(numbers.iter().map(u64::to_string)).collect::<Vec<_>>()
    };
    let rows = guest.phbs.iter().map(|phb: &PhbRow| calls(format!("{:#x}", phb.buid), &phb.hypercalls));
    text +=
        &section("Hypercalls that were answered here", &["PHB>", "PUT>", "INDIRECT>", "STUFF>", "GET>", "TCEs>"], rows);
    text
}

fn calls(snapshot: &Snapshot, spaces: &[&Space]) -> String {
    let rows =
        snapshot.calls.iter().map(|call| vec![call.name.clone(), call.calls.to_string(), call.failed.to_string()]);
    let mut text = section("Kernel calls", &["call", "calls>", "failed>"], rows);
    let row = |name: &str, calls: u64, bytes: u64| vec![name.to_owned(), calls.to_string(), size(bytes)];
    let registrations = snapshot.registrations.iter().map(|all| row("register", all.registers, all.registered));
    let of_spaces = spaces.iter().flat_map(|space| {
        space.calls.iter().flat_map(|calls| {
            [
                row(&format!("map, {}", space.name), calls.maps, calls.mapped),
                row(&format!("unmap, {}", space.name), calls.unmaps, calls.unmapped),
            ]
        })
    });
    text += &section("Calls of the library", &["call", "calls>", "bytes>"], registrations.chain(of_spaces));
    text
}

fn refusals(snapshot: &Snapshot, spaces: &[&Space]) -> String {
    let row = |what: String, refusals: &[Refusal]| {
        let row = |refusal: &Refusal| vec![what.clone(), refusal.code.clone(), refusal.count.to_string()];
        refusals.iter().map(row).collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    if let Some(registrations) = &snapshot.registrations {
        rows.extend(row("register".into(), &registrations.refusals));
    }
    for space in spaces {
        if let Some(calls) = &space.calls {
            rows.extend(row(format!("map, {}", space.name), &calls.map_refusals));
            rows.extend(row(format!("unmap, {}", space.name), &calls.unmap_refusals));
        }
    }
    for guest in &snapshot.guests {
        for phb in &guest.phbs {
            rows.extend(row(format!("hypercall, {} {:#x}", guest.name, phb.buid), &phb.hypercalls.refusals));
        }
        rows.extend(row(format!("hypercall, {}", guest.name), &guest.without_window.refusals));
    }
    section("Refused", &["what", "why", "times>"], rows.into_iter())
}
