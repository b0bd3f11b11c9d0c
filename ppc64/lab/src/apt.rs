//! Packages of another architecture, through a private configuration of the machine's own apt.
//!
//! The only part of the machine's package state that is used is the address of its mirror.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Variable that names a mirror on machines whose apt has none.
pub const MIRROR_VARIABLE: &str = "SPAPR_IOMMU_DEBIAN_MIRROR";

const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// Format in which apt prints a line for each index of each repository, with fields separated by
/// tabs.
///
/// The address comes first and may contain anything except a tab. Labels contain spaces: "Debian
/// Backports".
const TARGET_FORMAT: &str = "$(REPO_URI)\t$(ORIGIN)\t$(LABEL)\t$(SUITE)";

/// Sources of packages. apt tries the addresses of an archive in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    main: Vec<String>,
    security: Vec<String>,
}

impl Mirror {
    /// Returns the mirror named in the environment, otherwise the one from which this machine
    /// installs.
    pub fn find() -> Result<Mirror> {
        if let Some(main) = std::env::var(MIRROR_VARIABLE).ok().filter(|m| !m.is_empty()) {
            return Ok(Mirror { main: vec![main], security: Vec::new() });
        }
        let output = Command::new("apt-get")
            .args(["indextargets", "--format", TARGET_FORMAT])
            .output()
            .with_context(|| format!("apt-get does not run; kernels are Debian packages. {HELP}"))?;
        Mirror::from_targets(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("this machine's apt knows no Debian mirror to take kernels from. {HELP}"))
    }

    /// Parses apt's output in [`TARGET_FORMAT`]. Backports and updates are on the main archive's
    /// mirrors.
    ///
    /// ci/debian-mirrors does the same for the shell.
    fn from_targets(targets: &str) -> Option<Mirror> {
        let mut mirror = Mirror { main: Vec::new(), security: Vec::new() };
        for line in targets.lines() {
            let &[address, origin, label, suite] = &line.split('\t').collect::<Vec<_>>()[..] else { continue };
            // Packages cannot be fetched from a disc that is not in its drive.
            if !ORIGINS.contains(&origin) || address.starts_with("cdrom:") {
                continue;
            }
            let security = label == "Debian-Security" || suite.ends_with("-security");
            let addresses = if security { &mut mirror.security } else { &mut mirror.main };
            let address = address.trim_end_matches('/').to_owned();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        (!mirror.main.is_empty()).then_some(mirror)
    }

    /// Returns a sources file for suites of the mirror and of its security archive.
    fn sources(&self, suites: &[&str], keyring: &Path) -> String {
        let (security, main): (Vec<&str>, Vec<&str>) = suites.iter().partition(|suite| suite.ends_with("-security"));
        let stanza = |addresses: &[String], suites: &[&str]| {
            format!(
                "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nTargets: Packages\nSigned-By: {}\n\n",
                addresses.join(" "),
                suites.join(" "),
                keyring.display()
            )
        };
        let mut text = stanza(&self.main, &main);
        if !self.security.is_empty() && !security.is_empty() {
            text += &stanza(&self.security, &security);
        }
        text
    }
}

/// Origins of packages on a mirror of Debian. Debug symbols ("Debian debug") have their own
/// archive.
const ORIGINS: [&str; 2] = ["Debian", "Debian Backports"];

const HELP: &str = "Run apt-get update if apt has no lists yet, set SPAPR_IOMMU_DEBIAN_MIRROR to the address of a Debian mirror, \
    or give a kernel of your own with --kernel VMLINUX --modules DIR";

/// Package lists of some suites.
pub struct Archive {
    configuration: PathBuf,
}

impl Archive {
    /// Fetches the lists of `suites` into `scratch`.
    ///
    /// Leaves out a suite that cannot be read: a mirror between two updates offers some suites and
    /// not others.
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

    /// Returns the names of all packages that start with `linux-`.
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
            bail!(
                "could not download {}. A mirror between two updates lists what it does not have yet, or no longer: \
                 try later, or name another in {MIRROR_VARIABLE}",
                packages.join(", ")
            );
        }
        fs::read_dir(into)?.map(|entry| Ok(entry?.path())).collect()
    }

    /// Downloads a package with all its dependencies and returns the files.
    ///
    /// They are of the first suite. A package that a mirror between two updates lists there but
    /// does not have comes from the next suite that has it.
    pub fn download_with_dependencies(&self, package: &str, suites: &[&str]) -> Result<Vec<PathBuf>> {
        let archives = self.configuration.with_file_name("cache").join("archives");
        let mut elsewhere: BTreeMap<String, usize> = BTreeMap::new();
        for _ in suites {
            let output = self
                .command("apt-get")
                .args(["install", "--yes", "--download-only", "--no-install-recommends", "--target-release", suites[0]])
                .arg(package)
                .args(elsewhere.iter().map(|(name, suite)| format!("{name}/{}", suites[*suite])))
                .output()
                .context("start apt-get install")?;
            if output.status.success() {
                return debs(&archives);
            }
            let errors = String::from_utf8_lossy(&output.stderr);
            for name in missing(&errors) {
                *elsewhere.entry(name).or_default() += 1;
            }
            if elsewhere.is_empty() || elsewhere.values().any(|suite| *suite == suites.len()) {
                bail!("could not download {package} and what it depends on: {}", errors.trim());
            }
            // Some files may not fit packages of another suite.
            debs(&archives)?.iter().try_for_each(fs::remove_file)?;
        }
        bail!("could not download {package} and what it depends on from {}", suites.join(", "))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(&self.configuration).env("LC_ALL", "C");
        command
    }
}

/// Returns the names of the packages that apt could not fetch.
fn missing(errors: &str) -> Vec<String> {
    let failed = errors.lines().filter_map(|line| line.strip_prefix("E: Failed to fetch ")?.split(' ').next());
    failed.filter_map(|address| Some(address.rsplit('/').next()?.split_once('_')?.0.to_owned())).collect()
}

/// Returns the packages in a directory.
fn debs(directory: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(files.into_iter().filter(|file| file.extension().is_some_and(|kind| kind == "deb")).collect())
}

/// Standard output belongs to the emulated command.
fn to_standard_error() -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::AsFd;
    io::stderr().as_fd().try_clone_to_owned()
}

/// Only the part of the machine's configuration that says how to reach the network stays.
fn configuration_text(scratch: &Path) -> String {
    let scratch = scratch.display();
    // Testing suites expire within days of a mirror's last update. The signature is checked
    // nevertheless, and an old kernel is not a risk in a machine without a network.
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

    /// Output of apt on machines of several kinds: the lines after the line that names one.
    fn printed(machine: &str) -> &'static str {
        let (_, after) = include_str!("../tests/targets.txt").split_once(&format!("# {machine}\n")).unwrap();
        after.split("# ").next().unwrap()
    }

    /// Output of apt on machines that know backports: the label "Debian Backports" comes first
    /// there.
    #[test]
    fn a_machine_with_backports_has_the_mirror_and_the_security_archive() {
        for targets in ["bookworm-deb822", "trixie-one-line"].map(printed) {
            let mirror = Mirror::from_targets(targets).unwrap();
            assert_eq!(mirror.main, ["http://mirror.example/debian"]);
            assert_eq!(mirror.security, ["http://mirror.example/debian-security"]);
        }
    }

    #[test]
    fn several_mirrors_are_kept_in_their_order() {
        let mirror = Mirror::from_targets(printed("trixie-mirror-list")).unwrap();
        assert_eq!(mirror.main, ["mirror+file:/etc/apt/mirrors/debian.list", "http://mirror.example/debian"]);
        assert_eq!(mirror.security, [""; 0]);
        let text = mirror.sources(&["trixie"], Path::new("/k"));
        assert!(text.contains("URIs: mirror+file:/etc/apt/mirrors/debian.list http://mirror.example/debian\n"));
    }

    #[test]
    fn other_vendors_discs_and_debug_symbols_are_no_mirrors() {
        for line in [
            "http://vendor.example/apt/\tVendor\tDebian\tstable",
            "http://mirror.example/ubuntu/\tUbuntu\tUbuntu\tnoble",
            "cdrom://[Debian GNU/Linux 13.0.0 _Trixie_]/\tDebian\tDebian\tstable",
            "http://mirror.example/debian-debug/\tDebian debug\tDebian debug\tstable-debug",
            "http://mirror.example/security/\tDebian\tDebian-Security\tstable-security",
            "http://mirror.example/debian/\t\t\t",
            "",
        ] {
            assert_eq!(Mirror::from_targets(line), None, "{line}");
        }
    }

    /// The script that ci/install uses finds the same addresses.
    #[test]
    fn the_installation_script_finds_the_same_mirrors() {
        let vendor = "http://vendor.example/apt/\tVendor\tVendor\tstable\n";
        let machines = ["bookworm-deb822", "trixie-one-line", "trixie-mirror-list"].map(printed);
        for targets in machines.into_iter().chain([vendor]) {
            let mut child = Command::new(crate::repository().join("ci/debian-mirrors"))
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            io::Write::write_all(&mut child.stdin.take().unwrap(), targets.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let ours = Mirror::from_targets(targets).map(|mirror| mirror.main).unwrap_or_default();
            assert_eq!(String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>(), ours);
        }
    }

    #[test]
    fn packages_that_were_not_fetched_are_known_by_name() {
        let errors = "E: Failed to fetch http://m.example/pool/main/n/nss/libnss3_3.110-1%2bdeb13u5_ppc64el.deb  404  Not \
             Found [IP: 192.0.2.1 80]\nE: Failed to fetch http://m.example/b_ad/libssl3t64_3.5_ppc64el.deb  404\n\
             E: Some files failed to download\nE: Unable to correct problems\n";
        assert_eq!(missing(errors), ["libnss3", "libssl3t64"]);
    }

    #[test]
    fn security_suites_come_from_the_security_archive() {
        let mut mirror =
            Mirror { main: vec!["http://m.example/d".into()], security: vec!["http://m.example/s".into()] };
        let suites = ["trixie", "trixie-security", "trixie-backports"];
        let text = mirror.sources(&suites, Path::new("/k"));
        assert!(text.contains("URIs: http://m.example/d\nSuites: trixie trixie-backports\n"));
        assert!(text.contains("URIs: http://m.example/s\nSuites: trixie-security\n"));
        mirror.security.clear();
        assert!(!mirror.sources(&suites, Path::new("/k")).contains("-security"));
    }
}
