//! A container of an address space with its groups.

use super::AttachError;
use crate::addr::Iova;
use crate::host::{Errno, Fd, File, Host, Node, Obstacle, calls};
use crate::uapi::{spapr, vfio};
use crate::window::WindowFacts;
use std::sync::Arc;

/// An attached group. Its file is closed before the container's.
#[derive(Debug)]
pub(super) struct AttachedGroup {
    pub number: u32,
    pub file: File,
    /// Counts the handles of its devices.
    pub devices: Arc<()>,
}

/// A container with its groups. If nothing is mapped and registered, closing it leaves no trace in
/// the kernel.
#[derive(Debug)]
pub(super) struct Container {
    pub groups: Vec<AttachedGroup>,
    /// Whether the kernel will create this container's default window at the next call that may
    /// need it.
    pub default_waits: bool,
    /// Windows that the kernel did not remove after a creation that failed. They are removed before
    /// the next one.
    pub strays: Vec<Iova>,
    container: File,
}

fn open(host: &Arc<dyn Host>, node: Node<'_>, what: String) -> Result<File, AttachError> {
    File::open(host, node).map_err(|errno| match (host.obstacle(node), node, errno) {
        (Some(obstacle), ..) => obstacle.into(),
        // This process has it open itself, in another address space.
        (None, Node::Group(group), Errno::EBUSY) => Obstacle::Busy { group }.into(),
        _ => AttachError::Open { what, errno },
    })
}

impl AttachedGroup {
    /// Opens a group and puts it in a container; whether it was there already. That may be so of
    /// files that were handed in, with devices that were opened from them.
    fn open_in(host: &Arc<dyn Host>, number: u32, container: Fd) -> Result<(Self, bool), AttachError> {
        let node = Node::Group(number);
        let file = open(host, node, format!("IOMMU group {number}"))?;
        let status = calls::group_status(host.as_ref(), file.fd())?;
        if status.flags & vfio::GROUP_FLAGS_VIABLE == 0
            && let Some(obstacle) = host.obstacle(node)
        {
            return Err(obstacle.into());
        }
        let mut there = status.flags & vfio::GROUP_FLAGS_CONTAINER_SET != 0;
        if there {
            match calls::group_unset_container(host.as_ref(), file.fd()) {
                Ok(()) => there = false,
                Err(error) if error.errno() == Some(Errno::EBUSY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !there {
            calls::group_set_container(host.as_ref(), file.fd(), container)?;
        }
        Ok((Self { number, file, devices: Arc::new(()) }, there))
    }
}

impl Container {
    /// Opens a new container for the group and gives it the v2 driver.
    pub(super) fn open(host: &Arc<dyn Host>, number: u32) -> Result<Self, AttachError> {
        let container = open(host, Node::Container, "a VFIO container".into())?;
        let fd = container.fd();
        let version = calls::api_version(host.as_ref(), fd)?;
        if version != vfio::API_VERSION {
            return Err(AttachError::Version { version });
        }
        if calls::check_extension(host.as_ref(), fd, spapr::TCE_V2_IOMMU)? == 0 {
            return Err(AttachError::NoV2);
        }
        let (group, there) = AttachedGroup::open_in(host, number, fd)?;
        let container = Self { groups: vec![group], default_waits: true, strays: Vec::new(), container };
        // A group with open devices is in a container with its driver.
        if !there {
            calls::set_iommu(host.as_ref(), fd, spapr::TCE_V2_IOMMU)?;
        }
        Ok(container)
    }

    /// Adds a group to this container.
    pub(super) fn add(&mut self, number: u32) -> Result<(), AttachError> {
        let (group, there) = AttachedGroup::open_in(self.container.host(), number, self.fd())?;
        if there {
            // In which container nobody can ask.
            return Err(AttachError::InContainer { group: number });
        }
        self.groups.push(group);
        Ok(())
    }

    /// Returns the container's file.
    pub(super) fn fd(&self) -> Fd {
        self.container.fd()
    }

    pub(super) fn group(&self, number: u32) -> Option<&AttachedGroup> {
        self.groups.iter().find(|group| group.number == number)
    }

    /// Reads the kernel's information on the container's windows.
    pub(super) fn facts(&self) -> Result<WindowFacts, AttachError> {
        let host = self.container.host();
        let platform = host.platform().ok_or(AttachError::NoPlatform)?;
        let info = calls::tce_info(host.as_ref(), self.fd())?;
        Ok(WindowFacts::new(platform, host.page_shift(), &info))
    }
}
