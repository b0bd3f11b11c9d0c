//! `spapr-iommu inspect`.

use super::output::{Sink, section};
use super::terminal::{chain, say};
use super::{Exit, InspectArguments, picture, written};
use crate::inspect::draw;
use crate::picture::{Memory, addresses};
use spapr_iommu::inspect::{FetchError, MAX_ROWS, Query, Snapshot, fetch, folders, sockets};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::thread;

/// Rows of each table, unless the user asks for more.
const ROWS: usize = 20;
/// Clears the screen and moves to its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) fn run(arguments: &InspectArguments) -> Exit {
    let Some(target) = &arguments.target else { return list(arguments) };
    let path = path(target);
    let rows = arguments.rows.unwrap_or(if arguments.json { MAX_ROWS } else { ROWS });
    let mut query = Query::default();
    (query.maps, query.from) = (rows, arguments.from);
    (query.regions, query.regions_from) = (rows, arguments.regions_from);
    query.space.clone_from(&arguments.space);
    let mut shown = false;
    loop {
        let snapshot = match fetch(&path, &query) {
            Ok(snapshot) => snapshot,
            // The process that was watched has ended.
            Err(FetchError::NotThere { .. } | FetchError::Closed { .. }) if shown => return Exit::Success,
            Err(error) => {
                say(chain(&error));
                return Exit::Obstacle;
            }
        };
        let (is_read, shows) = show(&snapshot, arguments);
        let exit = written(shows).and(draw_svg(&path, arguments));
        let Some(pause) = arguments.watch.filter(|_| is_read && exit == Exit::Success) else { return exit };
        shown = true;
        thread::sleep(pause);
    }
}

/// Returns the path of the socket that the user names.
fn path(target: &Path) -> PathBuf {
    let pid = target.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(pid) = pid else { return target.to_owned() };
    let mut paths: Vec<_> = folders().iter().map(|folder| folder.join(format!("{pid}.sock"))).collect();
    let place = paths.iter().position(|path| path.exists());
    paths.swap_remove(place.unwrap_or(0))
}

/// Prints a snapshot. Returns also whether somebody still reads what is printed.
fn show(snapshot: &Snapshot, arguments: &InspectArguments) -> (bool, io::Result<()>) {
    let mut sink = Sink::stdout();
    if arguments.json {
        sink.json(snapshot);
    } else {
        let clear = if arguments.watch.is_some() && io::stdout().is_terminal() { CLEAR } else { "" };
        sink.line(&format!("{clear}{}", draw(snapshot, arguments.space.as_deref())));
    }
    (sink.is_read(), sink.finish())
}

/// Draws everything, whatever the tables list.
fn draw_svg(path: &Path, arguments: &InspectArguments) -> Exit {
    let Some(svg) = &arguments.svg else { return Exit::Success };
    let mut query = Query::default();
    query.space.clone_from(&arguments.space);
    match fetch(path, &query) {
        Ok(snapshot) => picture::write(svg, &addresses(&Memory::from(&snapshot))),
        // The next snapshot reports it.
        Err(FetchError::NotThere { .. } | FetchError::Closed { .. }) if arguments.watch.is_some() => Exit::Success,
        Err(error) => {
            say(chain(&error));
            Exit::Obstacle
        }
    }
}

/// Lists the processes that can be inspected.
fn list(arguments: &InspectArguments) -> Exit {
    let found = sockets();
    let mut sink = Sink::stdout();
    if arguments.json {
        #[derive(serde::Serialize)]
        struct Row<'a> {
            pid: u32,
            socket: &'a Path,
        }
        sink.json(&found.iter().map(|(pid, socket)| Row { pid: *pid, socket }).collect::<Vec<_>>());
    } else {
        let rows = found.iter().map(|(pid, path)| vec![pid.to_string(), path.display().to_string()]);
        sink.line(section("Processes that can be inspected", &["PID>", "socket"], rows).trim_matches('\n'));
    }
    written(sink.finish())
}
