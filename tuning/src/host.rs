//! The container's network namespace, and what one call opens in it.

use std::io;
use std::path::Path;

use cni_common::cni::AttachmentRequest;
use cni_common::cni::failure::of_io;
use cni_common::cni::netns::OwnNetns;
use cni_common::cni::protocol::{CniError, ErrorCode};
use cni_common::kernel::link::{Link, Links};
use cni_common::kernel::netns::{Identity, Netns};
use cni_common::kernel::rtnetlink::RtnetlinkError;
use nix::errno::Errno;

use crate::key::SysctlPath;
use crate::plan::Plan;
use crate::setting::{LinkSetting, Setting};
use crate::sysctls::{Sysctls, kernel_failure};

/// `CNI_NETNS` and the interface in it that a call is about.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    netns: Netns,
    path: &'a str,
    ifname: &'a str,
    own: &'a OwnNetns,
}

/// Sysctls and interface of the namespace that the calling thread is in.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    pub(crate) ifname: &'a str,
    /// The interface, if there is one of that name.
    pub(crate) link: Option<Link>,
    links: Links,
    pub(crate) sysctls: Sysctls,
    container: &'a Container<'a>,
}

/// What settings are read from and written to: a namespace, or what only writes down.
pub(crate) trait Namespace {
    /// The property's present value; `None` if it has none that could be given back.
    fn current(&self, setting: &Setting) -> Result<Option<Setting>, CniError>;

    /// Gives the property its value.
    fn set(&mut self, setting: &Setting) -> Result<(), CniError>;
}

impl<'a> Container<'a> {
    pub(crate) fn open(request: &'a AttachmentRequest) -> Result<Self, CniError> {
        let path = &request.netns;
        let netns = Netns::open(Path::new(path)).map_err(|error| no_entry(path, &error))?;
        Ok(Self::of(request, netns))
    }

    /// The same, or `None` if there is proof that the namespace is gone, or the runtime knows of
    /// none any more.
    pub(crate) fn open_if_there(request: &'a AttachmentRequest) -> Result<Option<Self>, CniError> {
        let path = &request.netns;
        let netns =
            Netns::open_if_there(Path::new(path)).map_err(|error| no_entry(path, &error))?;
        Ok(netns.map(|netns| Self::of(request, netns)))
    }

    fn of(request: &'a AttachmentRequest, netns: Netns) -> Self {
        let AttachmentRequest { attachment, netns: path, own_netns: own, .. } = request;
        Self { netns, path, ifname: &attachment.ifname, own }
    }

    /// Whether it is the namespace of the plugin itself: the host's.
    pub(crate) fn is_own(&self) -> Result<bool, CniError> {
        self.own.is(&self.netns)
    }

    /// An error if the plan is not for this namespace. `CNI_NETNS_OVERRIDE` lets a runtime mean the
    /// host's interfaces; the host's sysctls are never for a network to set.
    pub(crate) fn permit(&self, plan: &Plan<'_>) -> Result<(), CniError> {
        if plan.sysctls.is_empty() || !self.is_own()? {
            return Ok(());
        }
        Err(CniError::new(
            ErrorCode::InvalidNetns,
            format!(
                "CNI_NETNS {:?} is the plugin's own network namespace, where tuning sets no sysctls: remove \"sysctl\", or name the container's namespace",
                self.path
            ),
        ))
    }

    /// Runs `work` in the namespace, with what is to be read and changed there.
    pub(crate) fn inside<T: Send>(
        &self,
        work: impl FnOnce(&mut Host<'_>) -> Result<T, CniError> + Send,
    ) -> Result<T, CniError> {
        let enter = || Host::open(self).and_then(|mut host| work(&mut host));
        self.own.work_inside(&self.netns, enter).map_err(|error| no_entry(self.path, &error))?
    }
}

impl<'a> Host<'a> {
    fn open(container: &'a Container<'a>) -> Result<Self, CniError> {
        let ifname = container.ifname;
        let failed = |error: RtnetlinkError| {
            let what = format!("cannot look for interface {ifname}");
            refused(&error, &what, "is rtnetlink available to the plugin?")
        };
        let mut links = Links::open().map_err(|error| failed(error.into()))?;
        let link = links.by_name(ifname).map_err(failed)?;
        Ok(Self { sysctls: Sysctls::open()?, ifname, link, links, container })
    }

    /// What tells the namespace from those that come after it.
    pub(crate) fn namespace(&self) -> Result<Identity, CniError> {
        let Container { netns, path, .. } = self.container;
        let cookie = self.links.netns_cookie();
        let identity = cookie.and_then(|cookie| netns.identity(cookie, Path::new(path)));
        identity.map_err(|error| no_entry(path, &error))
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

    /// Looks at the interface again, after changes.
    pub(crate) fn look_again(&mut self) -> Result<(), CniError> {
        let Some(link) = &self.link else { return Ok(()) };
        self.link = self.links.by_index(link.index).map_err(|error| {
            let what = format!("cannot look at interface {}", self.ifname);
            refused(&error, &what, "is rtnetlink available to the plugin?")
        })?;
        Ok(())
    }

    fn link_failure(&self, setting: LinkSetting, error: &RtnetlinkError) -> CniError {
        let remedy = match setting {
            LinkSetting::Mac(_) => {
                "choose an address that the device takes; some take none while they are up"
            }
            LinkSetting::Mtu(_) => "choose one that the device and those it is stacked on allow",
            _ => "the device may not support it: remove it from the configuration",
        };
        let what = format!("cannot set {} of {} to {setting}", setting.name(), self.ifname);
        refused(error, &what, remedy)
    }
}

impl Namespace for Host<'_> {
    fn current(&self, setting: &Setting) -> Result<Option<Setting>, CniError> {
        match setting {
            Setting::Sysctl { path, .. } => {
                let value = match self.sysctls.read(path) {
                    Ok(value) => value,
                    Err(error) if is_absence(path, &error) => None,
                    Err(error) => {
                        let what = format!("cannot read {path}");
                        let remedy = "without its value DEL could not give it back: remove it from the configuration";
                        return Err(kernel_failure(&error, &what, remedy));
                    }
                };
                Ok(value.map(|value| Setting::Sysctl { path: path.clone(), value }))
            }
            Setting::Link(setting) => {
                Ok(self.link.as_ref().and_then(|link| setting.on(link)).map(Setting::Link))
            }
        }
    }

    fn set(&mut self, setting: &Setting) -> Result<(), CniError> {
        match setting {
            Setting::Sysctl { path, value } => self.sysctls.write(path, value).map_err(|error| {
                let what = format!("cannot write {value:?} to {path}");
                kernel_failure(&error, &what, "give it a value that the kernel takes")
            }),
            Setting::Link(setting) => {
                let index = self.require_link()?.index;
                self.links
                    .change(index, &setting.change())
                    .map_err(|error| self.link_failure(*setting, &error))
            }
        }
    }
}

/// Whether the error says that there is no value: the sysctl is gone, or has none yet, which
/// `stable_secret` says in its own way.
pub(crate) fn is_absence(path: &SysctlPath, error: &io::Error) -> bool {
    let unset = || path.names().last().is_some_and(|name| name == "stable_secret");
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => true,
        Some(Errno::EIO) => unset(),
        _ => false,
    }
}

fn refused(error: &RtnetlinkError, what: &str, remedy: &str) -> CniError {
    kernel_failure(&io::Error::from_raw_os_error(error.errno), what, remedy)
        .with_details(error.to_string())
}

fn no_entry(path: &str, error: &io::Error) -> CniError {
    let what = format!("cannot enter CNI_NETNS {path:?}");
    let remedy = "is the container still running, and is the plugin root?";
    of_io(error, ErrorCode::InvalidNetns, &what, remedy)
}
