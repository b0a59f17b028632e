//! What must be in the container's namespace. No I/O.

use cni_common::cni::protocol::{CniError, CniResult};

use crate::config::{Config, WantedSysctl};
use crate::key::{Key, Reading};
use crate::setting::{LinkSetting, Setting};

/// The settings in the order in which they are made: sysctls first.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Which files the keys mean is known only where the files are.
    pub(crate) sysctls: &'a [WantedSysctl],
    pub(crate) link: Vec<LinkSetting>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(config: &'a Config) -> Self {
        let promisc = config.promisc.then_some(true);
        let link = [
            config.mac.map(LinkSetting::Mac),
            promisc.map(LinkSetting::Promisc),
            config.mtu.map(LinkSetting::Mtu),
            config.allmulti.map(LinkSetting::Allmulti),
            config.tx_queue_len.map(LinkSetting::TxQueueLen),
        ];
        Self { sysctls: &config.sysctls, link: link.into_iter().flatten().collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sysctls.is_empty() && self.link.is_empty()
    }

    /// Everything in the order in which it is set, with each key's file that `find` finds.
    pub(crate) fn settings(
        &self,
        find: impl Fn(&'a Key) -> Result<&'a Reading, CniError>,
    ) -> Result<Vec<Setting>, CniError> {
        let mut settings = Vec::new();
        for sysctl in self.sysctls {
            let path = find(&sysctl.key)?.path().clone();
            settings.push(Setting::Sysctl { path, value: sysctl.value.clone() });
        }
        settings.extend(self.link.iter().copied().map(Setting::Link));
        Ok(settings)
    }

    /// The result with what ADD changed. Only the container's interface: the host may have one of
    /// the same name.
    pub(crate) fn reflect(&self, mut result: CniResult, ifname: &str) -> CniResult {
        let in_container =
            |sandbox: &Option<String>| sandbox.as_ref().is_some_and(|s| !s.is_empty());
        for interface in &mut result.interfaces {
            if interface.name != ifname || !in_container(&interface.sandbox) {
                continue;
            }
            for setting in &self.link {
                match setting {
                    LinkSetting::Mac(mac) => interface.mac = Some(mac.to_string()),
                    LinkSetting::Mtu(mtu) => interface.mtu = Some(u64::from(*mtu)),
                    // CNI results do not tell these.
                    LinkSetting::Promisc(_)
                    | LinkSetting::Allmulti(_)
                    | LinkSetting::TxQueueLen(_) => {}
                }
            }
        }
        result
    }
}
