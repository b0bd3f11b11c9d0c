//! Packs the initial file system, which is the machine's only one.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cpio::newc;
use flate2::Compression;
use flate2::write::GzEncoder;
use ppc64_init::manifest::{self, Manifest};

use crate::program::Program;

const DIRECTORY: u32 = 0o040755;
const EXECUTABLE: u32 = 0o100755;
const FILE: u32 = 0o100644;

/// A tree of files, by absolute path without the leading slash.
#[derive(Debug, Default)]
pub struct Initramfs {
    files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Initramfs {
    /// Adds the first process, the commands' programs, and the order of work.
    pub fn new(init: &Program, programs: &[Program], manifest: &Manifest) -> Result<Initramfs> {
        let mut tree = Initramfs::default();
        tree.add("init", EXECUTABLE, read(&init.file)?);
        for program in programs {
            let path = format!("bin/{}", program.name);
            tree.add(&path, EXECUTABLE, read(&program.file)?);
        }
        let manifest = serde_json::to_vec_pretty(manifest)?;
        tree.add(manifest::PATH.trim_start_matches('/'), FILE, manifest);
        Ok(tree)
    }

    /// The initial contents of a Linux guest of the machine: its first process, and modules in
    /// loading order.
    pub fn of_guest(init: &Program, modules: &[(String, Vec<u8>)]) -> Result<Initramfs> {
        let mut tree = Initramfs::default();
        tree.add("init", EXECUTABLE, read(&init.file)?);
        let mut order = String::new();
        for (name, content) in modules {
            order += &tree.add_module(name, content.clone());
            order += "\n";
        }
        tree.add(ppc64_linux_init::MODULES.trim_start_matches('/'), FILE, order.into_bytes());
        Ok(tree)
    }

    /// Adds what a monitor needs to boot its Linux guest: a kernel, its initial file system, and
    /// programs for it that only some runs use.
    pub fn add_guest(&mut self, kernel: &Path, guest: &Initramfs, programs: &Initramfs) -> Result<()> {
        for (name, tree) in [("guest/initramfs.gz", guest), ("guest/programs.gz", programs)] {
            let mut packed = Vec::new();
            tree.write(&mut packed)?;
            self.add(name, FILE, packed);
        }
        self.add("guest/vmlinux", FILE, read(kernel)?);
        Ok(())
    }

    /// Adds the contents of a directory at the root.
    pub fn add_root(&mut self, root: &Path) -> Result<()> {
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                } else if let Some(name) = path.strip_prefix(root)?.to_str() {
                    self.add(name, EXECUTABLE, read(&path)?);
                }
            }
        }
        Ok(())
    }

    /// Adds a module and returns its path inside the machine.
    pub fn add_module(&mut self, name: &str, content: Vec<u8>) -> String {
        let path = module_path(name);
        self.add(path.trim_start_matches('/'), FILE, content);
        path
    }

    /// Adds what an argument names in the repository, at the same relative path.
    ///
    /// An argument that names nothing there is an ordinary argument.
    pub fn add_argument(&mut self, argument: &str, repository: &Path) -> Result<()> {
        let value = argument.split_once('=').map_or(argument, |(_, value)| value);
        for name in [argument, value] {
            if let Some(path) = inside(name, repository) {
                self.add_tree(&path, repository)?;
            }
        }
        Ok(())
    }

    /// Adds a file or directory, which must exist.
    pub fn add_needed(&mut self, name: &str, repository: &Path) -> Result<()> {
        let path =
            inside(name, repository).with_context(|| format!("the repository has no file or directory {name}"))?;
        self.add_tree(&path, repository)
    }

    fn add_tree(&mut self, relative: &Path, repository: &Path) -> Result<()> {
        let path = repository.join(relative);
        if path.is_dir() {
            for entry in fs::read_dir(&path).with_context(|| format!("list {}", path.display()))? {
                self.add_tree(&relative.join(entry?.file_name()), repository)?;
            }
            return Ok(());
        }
        let name = relative.to_str().with_context(|| format!("{} is not UTF-8", relative.display()))?;
        self.add(name, FILE, read(&path)?);
        Ok(())
    }

    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        let mut parent = Path::new(path).parent();
        while let Some(directory) = parent.filter(|p| !p.as_os_str().is_empty()) {
            let name = directory.to_string_lossy().into_owned();
            self.files.entry(name).or_insert((DIRECTORY, Vec::new()));
            parent = directory.parent();
        }
        self.files.insert(path.to_owned(), (mode, content));
    }

    /// Writes the archive that the kernel unpacks. Directories precede their contents, since paths
    /// are sorted.
    pub fn write(&self, to: impl Write) -> Result<()> {
        let mut gzip = GzEncoder::new(to, Compression::fast());
        for (number, (path, (mode, content))) in (1..).zip(&self.files) {
            let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large for the archive"))?;
            let entry = newc::Builder::new(path).ino(number).mode(*mode);
            let mut entry = entry.write(&mut gzip, size);
            entry.write_all(content)?;
            entry.finish()?;
        }
        newc::trailer(&mut gzip)?;
        gzip.finish()?.flush()?;
        Ok(())
    }
}

/// Returns the path of a module inside the machine.
pub fn module_path(name: &str) -> String {
    format!("/modules/{name}")
}

/// Returns the path of something in the repository, unless it is all of it or outside.
fn inside(name: &str, repository: &Path) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => relative.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    let exists = !relative.as_os_str().is_empty() && repository.join(&relative).exists();
    exists.then_some(relative)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    ensure!(path.is_file(), "{} is neither file nor directory", path.display());
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Unpacks an archive: path, mode and contents of each entry.
    fn unpack(tree: &Initramfs) -> Vec<(String, u32, Vec<u8>)> {
        let mut packed = Vec::new();
        tree.write(&mut packed).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
        let mut rest = &plain[..];
        let mut entries = Vec::new();
        loop {
            let mut reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            entries.push((name, mode, content));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn directories_come_before_their_files() {
        let mut tree = Initramfs::default();
        tree.add("a/b/c", FILE, b"text".to_vec());
        tree.add("init", EXECUTABLE, b"x".to_vec());
        let expected = [
            ("a".to_owned(), DIRECTORY, vec![]),
            ("a/b".to_owned(), DIRECTORY, vec![]),
            ("a/b/c".to_owned(), FILE, b"text".to_vec()),
            ("init".to_owned(), EXECUTABLE, b"x".to_vec()),
        ];
        assert_eq!(unpack(&tree), expected);
    }

    #[test]
    fn a_guest_has_its_first_process_and_its_modules_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let init = Program { name: "init".into(), file: directory.path().join("init") };
        fs::write(&init.file, "x").unwrap();
        let modules = [("b.ko".to_owned(), b"b".to_vec()), ("a.ko".to_owned(), b"a".to_vec())];
        let tree = Initramfs::of_guest(&init, &modules).unwrap();
        let (_, order) = &tree.files["modules/order"];
        assert_eq!(order, b"/modules/b.ko\n/modules/a.ko\n");
        let mut host = Initramfs::default();
        host.add_guest(&init.file, &tree, &Initramfs::default()).unwrap();
        let names: Vec<&String> = host.files.keys().collect();
        assert_eq!(names, ["guest", "guest/initramfs.gz", "guest/programs.gz", "guest/vmlinux"]);
    }

    #[test]
    fn a_root_brings_all_below_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/a"), "a").unwrap();
        fs::write(root.path().join("b"), "b").unwrap();
        let mut tree = Initramfs::default();
        tree.add_root(root.path()).unwrap();
        let files: Vec<(String, u32)> = unpack(&tree).into_iter().map(|(name, mode, _)| (name, mode)).collect();
        let of = |name: &str, mode| (name.to_owned(), mode);
        assert_eq!(
            files,
            [of("b", EXECUTABLE), of("usr", DIRECTORY), of("usr/bin", DIRECTORY), of("usr/bin/a", EXECUTABLE)]
        );
    }

    #[test]
    fn arguments_bring_the_files_they_name() {
        let repository = tempfile::tempdir().unwrap();
        fs::create_dir_all(repository.path().join("examples/deep")).unwrap();
        fs::write(repository.path().join("examples/x.toml"), "x").unwrap();
        fs::write(repository.path().join("examples/deep/y"), "y").unwrap();
        let packed = |argument: &str| -> Vec<String> {
            let mut tree = Initramfs::default();
            tree.add_argument(argument, repository.path()).unwrap();
            tree.files.into_keys().collect()
        };
        assert_eq!(packed("examples/x.toml"), ["examples", "examples/x.toml"]);
        assert_eq!(packed("--file=./examples/x.toml"), ["examples", "examples/x.toml"]);
        assert_eq!(packed("examples"), ["examples", "examples/deep", "examples/deep/y", "examples/x.toml"]);
        for argument in ["run", ".", "", "..", "../x", "/", "/etc/passwd"] {
            assert_eq!(packed(argument), Vec::<String>::new(), "{argument}");
        }
    }

    #[test]
    fn a_needed_file_that_is_missing_is_an_error() {
        let mut tree = Initramfs::default();
        let error = tree.add_needed("no/such", &crate::repository());
        assert!(error.unwrap_err().to_string().contains("no/such"));
    }
}
