//! Workers that are killed at random moments, one after the other.
//!
//! `ppc64/run --machine powernv9 --kernel 6.12-64k --timeout 1200 --env KILLS=1000 -- kernel
//! killed_at_any_moment`

use crate::worker::{Diary, Entry, Phase, RAM, WORD};
use crate::{Busy, process};
use fastrand::Rng;
use libtest_mimic::Failed;
use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use strum::IntoEnumIterator;

/// Enough for a test that runs often.
const FEW: u32 = 20;
const SIGKILL: i32 = 9;
const TIMEOUT: Duration = Duration::from_secs(200);
/// Tolerance of free memory.
const NOISE: u64 = 1 << 20;
/// Additional tolerance for each window: pseries loses some 400 bytes for each, killed or not.
const KEPT: u64 = 512;
/// Longest time a worker lives in the phase that was awaited.
const MORE: Duration = Duration::from_millis(1);

/// Reads a number from the environment.
fn number<T: std::str::FromStr>(name: &str) -> Result<Option<T>, Failed> {
    let Ok(text) = env::var(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("{name}={text} is not a number").into())
}

struct Victim {
    process: Child,
    diary: Diary,
}

impl Victim {
    fn start(seed: u64) -> Result<Self, Failed> {
        let file = tempfile::tempfile()?;
        let output = Stdio::from(file.try_clone()?);
        let process = Command::new(env::current_exe()?).env(WORD, seed.to_string()).stdout(output).spawn()?;
        Ok(Self { process, diary: Diary::new(file) })
    }

    /// Waits until the worker's diary has an entry that fits; returns false if it never does.
    fn wait(&mut self, for_what: impl Fn(Entry) -> bool) -> Result<bool, Failed> {
        let began = Instant::now();
        while !for_what(self.diary.read()?) {
            if began.elapsed() > TIMEOUT || self.process.try_wait()?.is_some() {
                return Ok(false);
            }
            sleep(Duration::from_micros(50));
        }
        Ok(true)
    }

    /// Kills the worker, and returns how far it got.
    fn kill(mut self) -> Result<Entry, Failed> {
        self.process.kill()?;
        let status = self.process.wait()?;
        match status.signal() {
            Some(SIGKILL) => Ok(self.diary.read()?),
            _ => Err(format!("the worker ended by itself ({status}), {:?}", self.diary.read()?).into()),
        }
    }
}

/// Measures how long a worker takes to start and finish its first round.
fn life(seed: u64) -> Result<Duration, Failed> {
    let began = Instant::now();
    let mut victim = Victim::start(seed)?;
    let done = victim.wait(|entry| entry.rounds > 0)?;
    let life = began.elapsed();
    match victim.kill()? {
        _ if done => Ok(life),
        entry => Err(format!("the worker got no further than {entry:?} in {life:.1?}").into()),
    }
}

/// However far a worker got when it was killed, nothing of it stays: no memory, no lock on a group,
/// no window.
pub(crate) fn killed_at_any_moment() -> Result<(), Failed> {
    let kills = number("KILLS")?.unwrap_or(FEW);
    let seed = number("SEED")?.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut rng = Rng::with_seed(seed);
    let mut lives = (0..3).map(|_| life(rng.u64(..))).collect::<Result<Vec<_>, _>>()?;
    lives.sort();
    let life = lives[1];
    println!("{kills} kills, SEED={seed}, half of them within {life:.1?}");
    let (locked, files, free) = (process::locked()?, process::files()?, process::free()?);
    let mut counts = [0u32; 16];
    let (mut rounds, mut windows) = (0, 0);
    let began = Instant::now();
    for number in 0..kills {
        let mut victim = Victim::start(rng.u64(..))?;
        // Phases differ in length by far: every other time a phase is chosen instead of a time.
        let wanted = if number % 2 == 0 { None } else { rng.choice(Phase::iter()) };
        let (most, reached) = match wanted {
            None => (life, true),
            // It does not come back to this one.
            Some(Phase::Start) => (MORE, true),
            Some(wanted) => (MORE, victim.wait(|entry| entry.phase == wanted)?),
        };
        sleep(Duration::from_micros(rng.u64(..=most.as_micros() as u64)));
        let entry = victim.kill().map_err(|error| format!("kill {number}: {}", error.message().unwrap_or("")))?;
        if !reached {
            return Err(format!("SEED={seed}: kill {number}: the worker never got to {wanted:?}, {entry:?}").into());
        }
        counts[entry.phase as usize] += 1;
        rounds += entry.rounds;
        windows += entry.windows;
    }
    let took = began.elapsed().as_secs_f64();
    let counted = Phase::iter().map(|phase| (<&str>::from(phase), counts[phase as usize]));
    let list: Vec<String> = counted.map(|(name, count)| format!("{name} {count}")).collect();
    println!("killed at: {}", list.join(", "));
    println!("{:.1} kills/s, {rounds} rounds completed, {windows} windows", f64::from(kills) / took);
    // Others can use the groups, and all of their windows.
    Busy::new()?.end()?;
    let now = (process::locked()?, process::files()?, process::free()?);
    println!("VmLck {locked} before, {} after; free {} KiB before, {} KiB after", now.0, free >> 10, now.2 >> 10);
    if (locked, files) != (now.0, now.1) {
        return Err(format!("locked bytes and files: {:?} before, {:?} after", (locked, files), (now.0, now.1)).into());
    }
    // A lost region is larger than that.
    process::none_lost(free, now.2, (NOISE + KEPT * u64::from(windows)).min(RAM / 2 - 1))
        .map_err(|error| format!("SEED={seed}: {}", error.message().unwrap_or("")).into())
}
