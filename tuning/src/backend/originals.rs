//! The originals of one attachment: what was there before the first ADD. No I/O.

use cni_common::cni::Attachment;
use cni_common::cni::protocol::json::{Json, Object};
use cni_common::kernel::link::Link;
use cni_common::kernel::netns::Identity;

use crate::setting::Setting;

/// Written into every file, and refused when it is another.
const FORMAT: u64 = 1;

/// What was where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Originals {
    /// Its path may mean another one by now.
    namespace: Identity,
    /// Its name may mean another one by now; none if there was none.
    interface: Option<Interface>,
    /// In the order in which the properties were changed.
    pub(crate) settings: Vec<Setting>,
}

/// What tells an interface from another one of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interface {
    index: u32,
    /// Index of a veth's other end on the host, which gives each index once.
    peer: Option<u32>,
}

impl Originals {
    /// What of `earlier` is about this namespace and this interface in it, called `ifname`.
    pub(super) fn about(
        namespace: Identity,
        link: Option<&Link>,
        ifname: &str,
        earlier: Option<Self>,
    ) -> Self {
        let interface = link.map(Interface::of);
        let mut settings = Vec::new();
        if let Some(earlier) = earlier.filter(|earlier| earlier.namespace.is(&namespace)) {
            let same_interface = earlier.interface == interface;
            let keep = |setting: &Setting| same_interface || !setting.is_of_interface(ifname);
            settings.extend(earlier.settings.into_iter().filter(keep));
        }
        Self { namespace, interface, settings }
    }

    /// Adds the originals of properties that are not in it yet.
    pub(super) fn merge(&mut self, more: impl IntoIterator<Item = Setting>) {
        for setting in more {
            if !self.settings.iter().any(|original| original.same_property(&setting)) {
                self.settings.push(setting);
            }
        }
    }

    pub(super) fn to_text(&self, attachment: &Attachment) -> String {
        let mut object = Object::default();
        object.push("format", FORMAT);
        object.push("owner", attachment.tag().as_str());
        object.push("namespace", namespace_to_json(&self.namespace));
        if let Some(interface) = self.interface {
            object.push("interface", interface.to_json());
        }
        object.push("originals", self.settings.iter().map(Setting::to_json).collect::<Vec<_>>());
        format!("{}\n", Json::from(object))
    }

    /// `None` for what is no text of ours, or of another owner. The network may have been renamed.
    pub(super) fn from_text(text: &[u8], attachment: &Attachment) -> Option<Self> {
        let json = Json::parse(text).ok()?;
        let object = json.as_object()?;
        let owner = object.get_exact("owner")?.as_str()?;
        if number(object, "format") != Some(FORMAT) || !attachment.tag().is_same_attachment(owner) {
            return None;
        }
        let originals = object.get_exact("originals")?.as_array()?;
        Some(Self {
            namespace: namespace_from_json(object.get_exact("namespace")?)?,
            interface: match object.get_exact("interface") {
                Some(interface) => Some(Interface::from_json(interface)?),
                None => None,
            },
            settings: originals.iter().map(Setting::from_json).collect::<Option<_>>()?,
        })
    }
}

impl Interface {
    fn of(link: &Link) -> Self {
        Self { index: link.index, peer: link.peer }
    }

    fn to_json(self) -> Json {
        let mut object = Object::default();
        object.push("index", u64::from(self.index));
        if let Some(peer) = self.peer {
            object.push("peer", u64::from(peer));
        }
        object.into()
    }

    fn from_json(json: &Json) -> Option<Self> {
        let object = json.as_object()?;
        let index = |name| number(object, name).and_then(|number| u32::try_from(number).ok());
        Some(Self { index: index("index")?, peer: index("peer") })
    }
}

fn namespace_to_json(identity: &Identity) -> Json {
    let mut object = Object::default();
    object.push("boot", identity.boot_id.as_str());
    object.push("device", identity.device);
    object.push("inode", identity.inode);
    for (name, value) in [("cookie", identity.cookie), ("made", identity.made)] {
        if let Some(value) = value {
            object.push(name, value);
        }
    }
    object.into()
}

fn namespace_from_json(json: &Json) -> Option<Identity> {
    let object = json.as_object()?;
    Some(Identity {
        boot_id: object.get_exact("boot")?.as_str()?.to_owned(),
        device: number(object, "device")?,
        inode: number(object, "inode")?,
        cookie: number(object, "cookie"),
        made: number(object, "made"),
    })
}

fn number(object: &Object, name: &str) -> Option<u64> {
    match object.get_exact(name)? {
        Json::Number(number) => number.as_u64(),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::setting::LinkSetting;

    pub(in crate::backend) fn originals(mtu: u32) -> Originals {
        Originals {
            namespace: Identity {
                boot_id: "b".into(),
                device: 4,
                inode: 4_026_531_840,
                cookie: Some(7),
                made: None,
            },
            interface: Some(Interface { index: 2, peer: Some(9) }),
            settings: vec![Setting::Link(LinkSetting::Mtu(mtu))],
        }
    }

    #[test]
    fn the_first_original_stays() {
        let mut kept = originals(1500);
        kept.merge([
            Setting::Link(LinkSetting::Mtu(1400)),
            Setting::Link(LinkSetting::Promisc(false)),
        ]);
        assert_eq!(
            kept.settings,
            [Setting::Link(LinkSetting::Mtu(1500)), Setting::Link(LinkSetting::Promisc(false))]
        );
    }

    #[test]
    fn what_is_of_another_namespace_or_interface_is_not_about_this_one() {
        let kept = originals(1500);
        let link = |index, peer| Link { index, peer: Some(peer), ..Link::default() };
        let about = |cookie, link: &Link| {
            let namespace = Identity { cookie: Some(cookie), ..kept.namespace.clone() };
            Originals::about(namespace, Some(link), "eth0", Some(kept.clone())).settings
        };
        assert_eq!(about(7, &link(2, 9)), kept.settings);
        for (cookie, other) in [(8, link(2, 9)), (7, link(3, 9)), (7, link(2, 10))] {
            assert_eq!(about(cookie, &other), [], "{cookie} {other:?}");
        }
    }
}
