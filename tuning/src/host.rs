//! The container's network namespace, and what one call opens in it.

use std::fmt::Display;
use std::io;
use std::path::Path;

use cni_common::cni::protocol::{AttachmentRequest, CniError, ErrorCode};
use cni_common::kernel::link::{Link, Links};
use cni_common::kernel::netns::Netns;
use cni_common::kernel::rtnetlink::RtnetlinkError;

use crate::setting::{LinkSetting, Setting};
use crate::sysctls::Sysctls;

/// `CNI_NETNS` and the interface in it that a call is about.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    netns: Netns,
    path: &'a str,
    ifname: &'a str,
}

/// Sysctls and interface of the namespace that the calling thread is in.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    pub(crate) sysctls: Sysctls,
    pub(crate) ifname: &'a str,
    /// The interface, if there is one of that name.
    pub(crate) link: Option<Link>,
    links: Links,
    /// Device and inode of the namespace.
    pub(crate) namespace: (u64, u64),
}

impl<'a> Container<'a> {
    pub(crate) fn open(request: &'a AttachmentRequest) -> Result<Self, CniError> {
        let path = &request.netns;
        let netns = Netns::open(Path::new(path)).map_err(|error| no_entry(path, &error))?;
        Ok(Self { netns, path, ifname: &request.attachment.ifname })
    }

    /// Whether it is the namespace of the plugin itself.
    pub(crate) fn is_own(&self) -> bool {
        Netns::own().is_ok_and(|own| own.is(&self.netns))
    }

    /// Runs `work` in the namespace, with what is to be read and changed there.
    pub(crate) fn inside<T: Send>(
        &self,
        work: impl FnOnce(&mut Host<'_>) -> Result<T, CniError> + Send,
    ) -> Result<T, CniError> {
        let enter =
            || Host::open(self.ifname, self.netns.identity()).and_then(|mut host| work(&mut host));
        self.netns.run(enter).map_err(|error| no_entry(self.path, &error))?
    }
}

impl<'a> Host<'a> {
    fn open(ifname: &'a str, namespace: (u64, u64)) -> Result<Self, CniError> {
        let failed = |error: &dyn Display| {
            CniError::new(
                ErrorCode::Kernel,
                format!(
                    "cannot look for interface {ifname}: is rtnetlink available to the plugin?"
                ),
            )
            .with_details(error.to_string())
        };
        let mut links = Links::open().map_err(|error| failed(&error))?;
        let link = links.by_name(ifname).map_err(|error| failed(&error))?;
        Ok(Self { sysctls: Sysctls::open()?, ifname, link, links, namespace })
    }

    /// The interface, which must be there.
    pub(crate) fn require_link(&self) -> Result<&Link, CniError> {
        self.link.as_ref().ok_or_else(|| {
            CniError::new(
                ErrorCode::UnknownContainer,
                format!(
                    "there is no interface {} in the container: put tuning behind the plugin that makes it",
                    self.ifname
                ),
            )
        })
    }

    /// The property's present value; `None` if it cannot be read.
    pub(crate) fn current(&self, setting: &Setting) -> Option<Setting> {
        match setting {
            Setting::Sysctl { path, .. } => {
                let value = self.sysctls.read(path).ok()?;
                Some(Setting::Sysctl { path: path.clone(), value })
            }
            Setting::Link(setting) => setting.on(self.link.as_ref()?).map(Setting::Link),
        }
    }

    /// Looks at the interface again, after changes.
    pub(crate) fn look_again(&mut self) {
        let index = self.link.as_ref().map(|link| link.index);
        self.link = index.and_then(|index| self.links.by_index(index).ok().flatten());
    }

    /// Gives the property its value.
    pub(crate) fn set(&mut self, setting: &Setting) -> Result<(), CniError> {
        match setting {
            Setting::Sysctl { path, value } => self.sysctls.write(path, value).map_err(|error| {
                CniError::new(
                    ErrorCode::Kernel,
                    format!(
                        "cannot write {value:?} to {path}: give it a value that the kernel takes"
                    ),
                )
                .with_details(error.to_string())
            }),
            Setting::Link(setting) => {
                let index = self.require_link()?.index;
                self.links
                    .change(index, &setting.change())
                    .map_err(|error| self.link_failure(*setting, &error))
            }
        }
    }

    fn link_failure(&self, setting: LinkSetting, error: &RtnetlinkError) -> CniError {
        let remedy = match setting {
            LinkSetting::Mac(_) => {
                "choose an address that the device takes; some take none while they are up"
            }
            LinkSetting::Mtu(_) => "choose one that the device and those it is stacked on allow",
            _ => "the device may not support it: remove it from the configuration",
        };
        CniError::new(
            ErrorCode::Kernel,
            format!("cannot set {} of {} to {setting}: {remedy}", setting.name(), self.ifname),
        )
        .with_details(error.to_string())
    }
}

fn no_entry(path: &str, error: &io::Error) -> CniError {
    CniError::new(
        ErrorCode::InvalidNetns,
        format!("cannot enter CNI_NETNS {path:?}: is the container still running, and is the plugin root?"),
    )
    .with_details(error.to_string())
}
