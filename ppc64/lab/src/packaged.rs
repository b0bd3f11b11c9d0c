//! Debian programs that a command runs inside the machine: fetched with all dependencies of their
//! package, and reduced to the files they load.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use elf::ElfBytes;
use elf::abi::{DT_NEEDED, PT_INTERP};
use elf::endian::AnyEndian;

use crate::apt::{Archive, Mirror};
use crate::kernel::{SUITES, lock, scratch};

/// Where packages of the architecture have their libraries.
const LIBRARIES: &str = "usr/lib/powerpc64le-linux-gnu";

/// Files of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packaged {
    /// The package.
    pub package: String,
    /// The files, as paths without the leading slash.
    pub files: Vec<String>,
}

impl Packaged {
    /// Returns a directory that holds the files, and the libraries they load, at their paths;
    /// fetched unless it is in the cache.
    pub fn find(&self, cache: &Path) -> Result<PathBuf> {
        let _lock = lock(&cache.join("lock"))?;
        let root = cache.join(&self.package);
        if !self.files.iter().all(|file| root.join(file).is_file()) {
            self.fetch(cache, &root)?;
        }
        Ok(root)
    }

    fn fetch(&self, cache: &Path, root: &Path) -> Result<()> {
        eprintln!("fetching {}", self.package);
        let scratch = scratch(cache)?;
        let suites = SUITES.concat();
        let archive = Archive::open(&Mirror::find()?, &suites, &scratch.path().join("apt"))?;
        // A backport is another version; a missing package is rather taken from testing.
        let suites: Vec<&str> =
            suites.into_iter().filter(|suite| SUITES[0][0] == *suite || SUITES[1].contains(suite)).collect();
        let unpacked = scratch.path().join("unpacked");
        for file in archive.download_with_dependencies(&self.package, &suites)? {
            let status =
                Command::new("dpkg-deb").arg("-x").args([&file, &unpacked]).status().context("start dpkg-deb")?;
            ensure!(status.success(), "dpkg-deb cannot read {}", file.display());
        }
        let reduced = scratch.path().join("reduced");
        for (path, file) in loaded(&unpacked, &self.files)? {
            let to = reduced.join(path);
            fs::create_dir_all(to.parent().unwrap_or(&reduced))?;
            fs::copy(&file, &to).with_context(|| format!("copy {}", file.display()))?;
        }
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        fs::rename(&reduced, root).with_context(|| format!("move {} into the cache", self.package))
    }
}

/// Returns the files and everything they load: destination, and source. Follows links, since each
/// name becomes a file of its own.
fn loaded(unpacked: &Path, files: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut left: Vec<(String, PathBuf)> = files.iter().map(|file| (file.clone(), unpacked.join(file))).collect();
    while let Some((path, file)) = left.pop() {
        let content = fs::read(&file).with_context(|| format!("the packages have no {path}"))?;
        if found.insert(path, file).is_some() || !content.starts_with(b"\x7fELF") {
            continue;
        }
        let (loader, libraries) = needs(&content)?;
        for path in libraries.iter().map(|library| format!("{LIBRARIES}/{library}")) {
            let file = unpacked.join(&path);
            left.push((path, file));
        }
        if let Some(path) = loader {
            // Where packages are below /usr, its directory is a link that no package contains.
            let Some(name) = Path::new(&path).file_name() else { bail!("{path} is not a loader") };
            let file = unpacked.join(LIBRARIES).join(name);
            left.push((path, file));
        }
    }
    Ok(found)
}

/// Returns the loader of a program, and the libraries that a program or library needs.
fn needs(content: &[u8]) -> Result<(Option<String>, Vec<String>)> {
    let elf = ElfBytes::<AnyEndian>::minimal_parse(content)?;
    let segments = elf.segments().context("no program headers")?;
    let loader = segments.iter().find(|segment| segment.p_type == PT_INTERP);
    let loader = loader.map(|segment| elf.segment_data(&segment)).transpose()?;
    let loader = loader.map(|path| String::from_utf8_lossy(path).trim_matches(['/', '\0']).to_owned());
    let tables = elf.find_common_data()?;
    let (Some(dynamic), Some(names)) = (tables.dynamic, tables.dynsyms_strs) else { return Ok((loader, Vec::new())) };
    let needed = dynamic.iter().filter(|entry| entry.d_tag == DT_NEEDED);
    let libraries = needed.map(|entry| Ok(names.get(entry.d_val() as usize)?.to_owned())).collect::<Result<_>>()?;
    Ok((loader, libraries))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test is itself a program that a loader starts.
    #[test]
    fn a_program_brings_its_loader_and_its_libraries() {
        let content = fs::read(std::env::current_exe().unwrap()).unwrap();
        let (loader, libraries) = needs(&content).unwrap();
        let (loader, libc) = (loader.unwrap(), libraries.iter().find(|name| name.starts_with("libc.")).unwrap());
        assert!(!loader.starts_with('/') && loader.contains("ld"), "{loader}");

        let unpacked = tempfile::tempdir().unwrap();
        let add = |path: &str, content: &[u8]| {
            let path = unpacked.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        add("usr/bin/a", &content);
        add("usr/share/a.bin", b"data");
        let files = ["usr/bin/a".to_owned(), "usr/share/a.bin".to_owned()];
        assert!(loaded(unpacked.path(), &files).is_err());
        let name = Path::new(&loader).file_name().unwrap().to_str().unwrap();
        for library in libraries.iter().map(String::as_str).chain([name]) {
            add(&format!("{LIBRARIES}/{library}"), b"a library that asks for none");
        }
        add(&format!("{LIBRARIES}/unused.so"), b"");
        let found = loaded(unpacked.path(), &files).unwrap();
        for path in [&files[0], &files[1], &loader, &format!("{LIBRARIES}/{libc}")] {
            assert!(found.contains_key(path), "{path}: {found:?}");
        }
        assert!(!found.keys().any(|path| path.contains("unused")));
    }

    #[test]
    fn what_is_in_the_cache_is_not_fetched() {
        let cache = tempfile::tempdir().unwrap();
        let packaged = Packaged { package: "a".into(), files: vec!["usr/bin/a".into()] };
        fs::create_dir_all(cache.path().join("a/usr/bin")).unwrap();
        fs::write(cache.path().join("a/usr/bin/a"), "").unwrap();
        assert_eq!(packaged.find(cache.path()).unwrap(), cache.path().join("a"));
    }
}
