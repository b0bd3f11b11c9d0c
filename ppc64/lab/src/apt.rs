//! Packages of another architecture, through a private configuration of the machine's own apt.
//!
//! Nothing of the machine's package state is read or changed but the address of its mirror.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Names a mirror on machines whose apt has none.
pub const MIRROR_VARIABLE: &str = "SPAPR_IOMMU_DEBIAN_MIRROR";

const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// Where packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    main: String,
    security: Option<String>,
}

impl Mirror {
    /// The mirror named in the environment, else the one this machine installs from.
    pub fn find() -> Result<Mirror> {
        if let Some(main) = std::env::var(MIRROR_VARIABLE).ok().filter(|m| !m.is_empty()) {
            return Ok(Mirror { main, security: None });
        }
        let output = Command::new("apt-get")
            .args(["indextargets", "--format", "$(LABEL) $(REPO_URI)"])
            .output()
            .with_context(|| format!("apt-get does not run; kernels are Debian packages. {HELP}"))?;
        Mirror::from_targets(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("this machine's apt knows no Debian mirror to take kernels from. {HELP}"))
    }

    /// Reads lines of a repository's label and address.
    fn from_targets(targets: &str) -> Option<Mirror> {
        let address = |wanted: &str| {
            targets.lines().find_map(|line| {
                let (label, address) = line.split_once(' ')?;
                (label == wanted).then(|| address.trim_end_matches('/').to_owned())
            })
        };
        Some(Mirror { main: address("Debian")?, security: address("Debian-Security") })
    }

    /// A sources file for suites of the mirror and of its security archive.
    fn sources(&self, suites: &[&str], keyring: &Path) -> String {
        let (security, main): (Vec<&str>, Vec<&str>) = suites.iter().partition(|suite| suite.ends_with("-security"));
        let stanza = |address: &str, suites: &[&str]| {
            format!(
                "Types: deb\nURIs: {address}\nSuites: {}\nComponents: main\nTargets: Packages\nSigned-By: {}\n\n",
                suites.join(" "),
                keyring.display()
            )
        };
        let mut text = stanza(&self.main, &main);
        if let Some(address) = self.security.as_ref().filter(|_| !security.is_empty()) {
            text += &stanza(address, &security);
        }
        text
    }
}

const HELP: &str = "Set SPAPR_IOMMU_DEBIAN_MIRROR to the address of a Debian mirror, \
    or give a kernel of your own with --kernel VMLINUX --modules DIR";

/// Package lists of some suites.
pub struct Archive {
    configuration: PathBuf,
}

impl Archive {
    /// Fetches the lists of `suites` into `scratch`.
    ///
    /// A suite that cannot be read is left out: a mirror between two updates offers some and not others.
    pub fn open(mirror: &Mirror, suites: &[&str], scratch: &Path) -> Result<Archive> {
        let keyring = KEYRINGS
            .iter()
            .map(Path::new)
            .find(|k| k.exists())
            .context("no keyring to check Debian packages with; install the package debian-archive-keyring")?;
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(scratch.join(directory))?;
        }
        fs::write(scratch.join("status"), "")?;
        fs::write(scratch.join("a.sources"), mirror.sources(suites, keyring))?;
        let configuration = scratch.join("apt.conf");
        fs::write(&configuration, configuration_text(scratch))?;
        let archive = Archive { configuration };
        eprintln!("fetching package lists of {}", suites.join(", "));
        let status = archive
            .command("apt-get")
            .arg("update")
            .stdout(File::from(to_standard_error()?))
            .status()
            .context("start apt-get update")?;
        if !status.success() {
            eprintln!("some package lists could not be read; going on with the others");
        }
        Ok(archive)
    }

    /// Names of all packages that start with `linux-`.
    pub fn kernel_packages(&self) -> Result<Vec<String>> {
        let output = self.command("apt-cache").args(["pkgnames", "linux-"]).output().context("start apt-cache")?;
        ensure!(output.status.success(), "apt-cache: {}", String::from_utf8_lossy(&output.stderr));
        let names = String::from_utf8(output.stdout).context("read package names")?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads packages into a directory and returns their files.
    pub fn download(&self, packages: &[String], into: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(into)?;
        let status = self
            .command("apt-get")
            .arg("download")
            .args(packages)
            .current_dir(into)
            .stdout(File::from(to_standard_error()?))
            .status()
            .context("start apt-get download")?;
        if !status.success() {
            bail!("could not download {}", packages.join(", "));
        }
        fs::read_dir(into)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(&self.configuration).env("LC_ALL", "C");
        command
    }
}

/// Standard output belongs to the emulated command.
fn to_standard_error() -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::AsFd;
    io::stderr().as_fd().try_clone_to_owned()
}

/// The part of the machine's configuration that stays is how to reach the network.
fn configuration_text(scratch: &Path) -> String {
    let scratch = scratch.display();
    // Testing suites expire within days of a mirror's last update. The signature is checked all the same, and
    // an old kernel is no risk in a machine without a network.
    format!(
        r##"#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "ppc64el";
APT::Architectures {{ "ppc64el"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false";
Dir::State "{scratch}";
Dir::State::lists "{scratch}/lists";
Dir::State::status "{scratch}/status";
Dir::Cache "{scratch}/cache";
Dir::Etc::sourcelist "{scratch}/a.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"##
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_machines_own() {
        let targets = "Vendor http://vendor.example/apt/\n\
            Debian http://mirror.example/debian/\n\
            Debian http://mirror.example/debian/\n\
            Debian-Security http://mirror.example/security/\n";
        let mirror = Mirror::from_targets(targets).unwrap();
        assert_eq!(mirror.main, "http://mirror.example/debian");
        assert_eq!(mirror.security.as_deref(), Some("http://mirror.example/security"));
        assert_eq!(Mirror::from_targets("Ubuntu http://mirror.example/u/\n"), None);
    }

    #[test]
    fn security_suites_come_from_the_security_archive() {
        let mut mirror = Mirror { main: "http://m.example/d".into(), security: Some("http://m.example/s".into()) };
        let suites = ["trixie", "trixie-security", "trixie-backports"];
        let text = mirror.sources(&suites, Path::new("/k"));
        assert!(text.contains("URIs: http://m.example/d\nSuites: trixie trixie-backports\n"));
        assert!(text.contains("URIs: http://m.example/s\nSuites: trixie-security\n"));
        mirror.security = None;
        assert!(!mirror.sources(&suites, Path::new("/k")).contains("-security"));
    }
}
