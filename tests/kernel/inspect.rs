//! A process shows its state to another process.

use crate::{BIG, Busy, RAM, process};
use libtest_mimic::Failed;
use spapr_iommu::inspect::{Inspector, Query, fetch};
use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const WORD: &str = "SPAPR_IOMMU_INSPECT";

/// The socket that this process is to look at.
pub(crate) fn asked() -> Option<PathBuf> {
    env::var_os(WORD).map(PathBuf::from)
}

/// Inspects a process, and prints its snapshot.
pub(crate) fn look(socket: PathBuf) -> ExitCode {
    match fetch(&socket, &Query::default()) {
        Ok(snapshot) => {
            let locked = snapshot.host.and_then(|host| host.locked).map_or(0, |locked| locked.bytes);
            println!("locked {locked}");
            for space in snapshot.spaces {
                space.windows.iter().for_each(|window| println!("window {:#x} {}", window.start, window.mapped));
                space.maps.rows.iter().for_each(|row| println!("map {:#x} {} {:#x}", row.iova, row.size, row.user));
                space.groups.iter().for_each(|group| println!("container {}", group.container));
            }
            snapshot.regions.rows.iter().for_each(|row| println!("region {:#x} {}", row.user, row.mapped));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn another_process_sees_what_is_mapped() -> Result<(), Failed> {
    let busy = Busy::new()?;
    let inspector = Inspector::new(busy.space.registry());
    inspector.add_space("busy", &busy.space);
    let server = inspector.listen()?;
    let output = Command::new(env::current_exe()?).env(WORD, server.path()).output()?;
    let seen = String::from_utf8(output.stdout)?;
    let user = busy.ram.start();
    let expected = format!(
        "locked {}\nwindow 0x0 {RAM}\nwindow {BIG:#x} {RAM}\nmap 0x0 {RAM} {user}\nmap {BIG:#x} {RAM} {user}\n\
         container 0\ncontainer 1\nregion {user} {}\n",
        process::locked()?,
        2 * RAM
    );
    let path = server.path().to_owned();
    drop(server);
    busy.end()?;
    if seen == expected && !path.exists() {
        Ok(())
    } else {
        Err(format!("{expected}\nwas expected, and this was seen:\n{seen}{:?}", output.stderr).into())
    }
}
