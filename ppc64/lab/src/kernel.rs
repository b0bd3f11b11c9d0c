//! Finds kernels: in the cache, otherwise in Debian's archive.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use indicatif::ProgressBar;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::apt::{Archive, Mirror};
use crate::archive;
use crate::label::{Label, Match, Release, choose};

/// Suites to search for a kernel. A list is read only if the earlier ones have none of the series.
pub(crate) const SUITES: [&[&str]; 3] = [
    &["trixie", "trixie-updates", "trixie-security", "trixie-backports"],
    &["forky", "sid"],
    &["bookworm", "bookworm-security"],
];

/// How long the meaning of a label is taken from the cache.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);

/// A kernel on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What to call it.
    pub name: String,
    /// The ELF image.
    pub image: PathBuf,
    /// A directory with its modules.
    pub modules: PathBuf,
}

impl Kernel {
    /// Returns the kernel that a label stands for; fetched unless it is in the cache.
    pub fn of_label(label: Label, cache: &Path) -> Result<Kernel> {
        fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
        let _lock = lock(&cache.join("lock"))?;
        let meaning = cache.join(format!("{label}.label"));
        let cached =
            if label.is_exact() { exact(label, cache)?.map(|kernel| (kernel, true)) } else { cached(&meaning, cache) };
        let cached = cached.map(|(kernel, recent)| (recent && kernel.is_complete(), kernel));
        if let Some((true, kernel)) = cached {
            return Ok(kernel);
        }
        match fetch(label, cache) {
            Ok(kernel) => {
                if !label.is_exact() {
                    fs::write(&meaning, &kernel.name)?;
                }
                Ok(kernel)
            }
            Err(error) => {
                let Some((_, kernel)) = cached else {
                    return Err(error);
                };
                eprintln!("cannot look for a newer kernel, the cached one will do: {error:#}");
                Ok(kernel)
            }
        }
    }

    /// Returns whether its modules are all that a run may need.
    fn is_complete(&self) -> bool {
        self.modules.parent().is_some_and(archive::is_complete)
    }

    /// Returns its version, such as 6.12.107.
    pub fn version(&self) -> Result<String> {
        Ok(self.name.parse::<Release>()?.version())
    }

    /// Returns a kernel that the user provides.
    pub fn of_path(image: &Path, modules: &Path) -> Result<Kernel> {
        ensure!(image.is_file(), "there is no kernel {}", image.display());
        ensure!(modules.is_dir(), "there is no directory {}", modules.display());
        Ok(Kernel { name: image.display().to_string(), image: image.to_owned(), modules: modules.to_owned() })
    }

    /// Returns the contents of those of `names` that exist, in that order.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        collect(&self.modules, &mut files)?;
        let mut found = Vec::new();
        for name in names {
            let file = files.iter().find(|(module, _)| module == name);
            if let Some((_, path)) = file {
                let content = File::open(path).with_context(|| format!("open {}", path.display()))?;
                let bytes = archive::plain(&path.to_string_lossy(), content)?;
                found.push((format!("{name}.ko"), bytes));
            }
        }
        Ok(found)
    }
}

/// Returns all wanted modules below a directory.
fn collect(directory: &Path, into: &mut Vec<(&'static str, PathBuf)>) -> Result<()> {
    let list = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in list {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), into)?;
        } else if let Some(module) = archive::module_name(&entry.file_name().to_string_lossy()) {
            into.push((module, entry.path()));
        }
    }
    Ok(())
}

/// Returns the latest meaning of a label, and whether it is recent.
fn cached(meaning: &Path, cache: &Path) -> Option<(Kernel, bool)> {
    let kernel = in_cache(fs::read_to_string(meaning).ok()?.trim(), cache)?;
    let written = fs::metadata(meaning).and_then(|m| m.modified()).ok()?;
    let age = SystemTime::now().duration_since(written);
    Some((kernel, age.is_ok_and(|age| age < FRESH)))
}

/// Returns a kernel in the cache that an exact label names.
fn exact(label: Label, cache: &Path) -> Result<Option<Kernel>> {
    for entry in fs::read_dir(cache)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.parse::<Release>().is_ok_and(|release| label.names(&release))
            && let Some(kernel) = in_cache(&name, cache)
        {
            return Ok(Some(kernel));
        }
    }
    Ok(None)
}

fn in_cache(name: &str, cache: &Path) -> Option<Kernel> {
    let directory = cache.join(name);
    let kernel = Kernel { name: name.to_owned(), image: directory.join("vmlinux"), modules: directory.join("modules") };
    (!name.is_empty() && kernel.image.is_file()).then_some(kernel)
}

/// One run fetches, others wait for it.
pub(crate) fn lock(path: &Path) -> Result<Flock<File>> {
    let open = || File::create(path).with_context(|| format!("open {}", path.display()));
    match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => {
            eprintln!("waiting for another run that fetches packages")
        }
        Err((_, error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
    }
    Flock::lock(open()?, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock {}", path.display()))
}

/// Creates a directory to fetch into, under the lock.
pub(crate) fn scratch(cache: &Path) -> Result<TempDir> {
    const PREFIX: &str = "fetching-";
    // Nothing else fetches under the lock: leftovers are of a run that was killed.
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(tempfile::Builder::new().prefix(PREFIX).tempdir_in(cache)?)
}

fn fetch(label: Label, cache: &Path) -> Result<Kernel> {
    let mirror = Mirror::find()?;
    let scratch = scratch(cache)?;
    let mut newer: Option<(Archive, Vec<String>, Vec<Release>)> = None;
    let mut offered = Vec::new();
    for (index, suites) in SUITES.iter().enumerate() {
        let directory = scratch.path().join(index.to_string());
        let archive = Archive::open(&mirror, suites, &directory)?;
        let packages = archive.kernel_packages()?;
        let found = releases(&packages);
        match choose(label, &found) {
            Some((Match::Series, best)) => {
                return download_best(&archive, &best, &packages, scratch.path(), cache);
            }
            Some((Match::Newer, best)) => {
                let best: Vec<Release> = best.into_iter().cloned().collect();
                let series = |best: &[Release]| best.first().map(Release::series);
                if newer.as_ref().is_none_or(|(_, _, other)| series(&best) < series(other)) {
                    newer = Some((archive, packages, best));
                }
            }
            None => {}
        }
        offered.extend(found);
    }
    let Some((archive, packages, best)) = newer else {
        bail!(none(label, &offered));
    };
    eprintln!("the archive no longer has a {label} kernel, taking the next newer series");
    download_best(&archive, &best.iter().collect::<Vec<_>>(), &packages, scratch.path(), cache)
}

/// Returns the error that no kernel matches a label, and what there is instead.
fn none(label: Label, offered: &[Release]) -> String {
    let mut names: Vec<&str> = offered.iter().map(Release::name).collect();
    names.sort_unstable();
    names.dedup();
    let offered = if names.is_empty() { "none at all".to_owned() } else { names.join(", ") };
    let newer = if label.is_exact() { "" } else { " and none newer" };
    format!(
        "the archive has no kernel {label}{newer}; it has {offered}. Archives give old versions up: bring such a kernel \
         with --kernel VMLINUX --modules DIR"
    )
}

/// Returns the first that is available: a mirror between two updates lists packages that it does
/// not have yet.
fn download_best(
    archive: &Archive,
    best: &[&Release],
    packages: &[String],
    scratch: &Path,
    cache: &Path,
) -> Result<Kernel> {
    let mut failed = None;
    for release in best {
        match download(archive, release, packages, &scratch.join(release.name()), cache) {
            Ok(kernel) => return Ok(kernel),
            Err(error) => {
                eprintln!("{error:#}");
                failed = Some(error);
            }
        }
    }
    Err(failed.unwrap_or_else(|| anyhow!("the archive has no such kernel")))
}

/// Finds kernels among packages: `linux-image-RELEASE` holds everything, or `linux-binary-RELEASE`
/// the image and `linux-modules-RELEASE` the modules.
fn releases(packages: &[String]) -> Vec<Release> {
    packages.iter().filter_map(|name| name.strip_prefix("linux-image-")?.parse().ok()).collect()
}

fn packages_of(release: &Release, packages: &[String]) -> Vec<String> {
    let split = ["linux-binary", "linux-modules"].map(|kind| format!("{kind}-{}", release.name()));
    if split.iter().all(|name| packages.contains(name)) {
        split.to_vec()
    } else {
        vec![format!("linux-image-{}", release.name())]
    }
}

fn download(archive: &Archive, release: &Release, packages: &[String], scratch: &Path, cache: &Path) -> Result<Kernel> {
    if let Some(kernel) = in_cache(release.name(), cache).filter(Kernel::is_complete) {
        return Ok(kernel);
    }
    eprintln!("fetching kernel {}", release.name());
    let files = archive.download(&packages_of(release, packages), &scratch.join("packages"))?;
    let extracted = scratch.join("kernel");
    for file in files {
        let progress = ProgressBar::new_spinner();
        progress.enable_steady_tick(Duration::from_millis(100));
        progress.set_message(format!("extracting {}", file.display()));
        archive::extract(&file, &extracted)?;
        progress.finish_and_clear();
    }
    ensure!(extracted.join("vmlinux").is_file(), "the packages of {} hold no vmlinux", release.name());
    let place = cache.join(release.name());
    if place.exists() {
        fs::rename(&place, scratch.join("older")).context("take the older modules away")?;
    }
    fs::rename(&extracted, &place).context("move the kernel into the cache")?;
    in_cache(release.name(), cache).context("the kernel vanished from the cache")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_one_package_or_two() {
        let release: Release = "7.2.11+deb13-powerpc64le".parse().unwrap();
        let mut packages = vec!["linux-image-7.2.11+deb13-powerpc64le".to_owned()];
        assert_eq!(packages_of(&release, &packages), packages);
        packages.push("linux-binary-7.2.11+deb13-powerpc64le".into());
        packages.push("linux-modules-7.2.11+deb13-powerpc64le".into());
        assert_eq!(packages_of(&release, &packages), packages[1..]);
        assert_eq!(releases(&packages), [release]);
    }

    #[test]
    fn what_the_archive_does_not_have_is_an_error_with_what_it_has() {
        let offered = ["7.2.12+deb14-powerpc64le", "7.2.13+deb14-powerpc64le"].map(|name| name.parse().unwrap());
        let error = none("7.2.6".parse().unwrap(), &offered);
        assert!(
            error.starts_with("the archive has no kernel 7.2.6; it has 7.2.12+deb14-powerpc64le, 7.2.13"),
            "{error}"
        );
        assert!(error.contains("--kernel VMLINUX --modules DIR"), "{error}");
        let error = none("9.1".parse().unwrap(), &[]);
        assert!(error.starts_with("the archive has no kernel 9.1 and none newer; it has none at all."), "{error}");
    }

    #[test]
    fn an_exact_version_in_the_cache_needs_no_archive() {
        let cache = tempfile::tempdir().unwrap();
        let name = "7.2.6+deb14-powerpc64le";
        fs::create_dir(cache.path().join(name)).unwrap();
        let found = |label: &str| exact(label.parse().unwrap(), cache.path()).unwrap().map(|kernel| kernel.name);
        assert_eq!(found("7.2.6"), None);
        fs::write(cache.path().join(name).join("vmlinux"), "").unwrap();
        assert_eq!(found("7.2.6").as_deref(), Some(name));
        assert_eq!((found("7.2.6-64k"), found("7.2.5")), (None, None));
        assert_eq!(Kernel::of_label("7.2.6".parse().unwrap(), cache.path()).unwrap().name, name);
    }

    #[test]
    fn the_cache_answers_only_with_what_it_holds() {
        let cache = tempfile::tempdir().unwrap();
        let meaning = cache.path().join("6.12.label");
        assert_eq!(cached(&meaning, cache.path()), None);
        fs::write(&meaning, "6.12.1-powerpc64le").unwrap();
        assert_eq!(cached(&meaning, cache.path()), None);
        fs::create_dir(cache.path().join("6.12.1-powerpc64le")).unwrap();
        fs::write(cache.path().join("6.12.1-powerpc64le/vmlinux"), "").unwrap();
        let (kernel, fresh) = cached(&meaning, cache.path()).unwrap();
        assert_eq!(kernel.name, "6.12.1-powerpc64le");
        assert!(fresh);
        let old = SystemTime::now() - 2 * FRESH;
        let file = File::options().write(true).open(&meaning).unwrap();
        file.set_modified(old).unwrap();
        assert!(!cached(&meaning, cache.path()).unwrap().1);
    }
}
