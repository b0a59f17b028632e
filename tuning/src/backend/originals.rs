//! The originals of one attachment: what was there before the first ADD. No I/O.

use std::path::Path;

use cni_common::cni::Attachment;
use cni_common::cni::protocol::json::{Json, Object};
use cni_common::kernel::layout::Newer;
use cni_common::kernel::link::Link;
use cni_common::kernel::netns::Identity;

use crate::setting::Setting;

/// The number of a file's layout. It rises whenever an older version could not give back what a file holds;
/// that one leaves the file alone then.
const FORMAT: u32 = 2;
/// The first layout, that of b302888: it told a namespace by device and inode, and an interface by its index.
const OLDER: u32 = 1;

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
            let same_interface = match (earlier.interface, interface) {
                (Some(earlier), Some(interface)) => earlier.is(interface),
                (earlier, interface) => earlier == interface,
            };
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
        object.push("format", u64::from(FORMAT));
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
        let format = number(object, "format")?;
        let is_known = [FORMAT, OLDER].map(u64::from).contains(&format);
        if !is_known || !attachment.tag().is_same_attachment(owner) {
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

/// Fails if a file is of a newer layout.
pub(super) fn refuse_newer(text: &[u8], file: &Path) -> Result<(), Newer> {
    let json = Json::parse(text).ok();
    let number = json.as_ref().and_then(|json| number(json.as_object()?, "format"));
    let number = number.map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    Newer::refuse(number, FORMAT, || format!("file {}", file.display()))
}

impl Interface {
    /// Whether both are one. Layout 1 did not tell the other end.
    fn is(self, other: Self) -> bool {
        let same_peer = self.peer.is_none() || self.peer == other.peer;
        self.index == other.index && same_peer
    }

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
        let index = |number: u64| u32::try_from(number).ok();
        let Some(object) = json.as_object() else {
            return Some(Self { index: index(value(json)?)?, peer: None });
        };
        let peer = number(object, "peer").and_then(index);
        Some(Self { index: index(number(object, "index")?)?, peer })
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
    if let Some([device, inode]) = json.as_array() {
        let (device, inode) = (value(device)?, value(inode)?);
        return Some(Identity { device, inode, boot_id: String::new(), cookie: None, made: None });
    }
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
    value(object.get_exact(name)?)
}

fn value(json: &Json) -> Option<u64> {
    match json {
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
    fn what_b302888_wrote_is_read() {
        let attachment = Attachment {
            network: "net1".into(),
            container_id: "web".into(),
            ifname: "eth0".into(),
        };
        let text = r#"{"format":1,"owner":"net1/web/eth0","namespace":[4,4026532321],"interface":2,
            "originals":[{"sysctl":"/proc/sys/net/core/somaxconn","value":"4096"},{"mtu":1500}]}"#;
        let read = Originals::from_text(text.as_bytes(), &attachment).expect("layout 1");
        let now = Identity { inode: 4_026_532_321, ..originals(1500).namespace };
        let link = Link { index: 2, peer: Some(9), ..Link::default() };
        let about = |namespace: &Identity, link: &Link| {
            Originals::about(namespace.clone(), Some(link), "eth0", Some(read.clone())).settings
        };
        assert_eq!(about(&now, &link).len(), 2);
        assert_eq!(about(&Identity { inode: 1, ..now.clone() }, &link), []);
        assert_eq!(about(&now, &Link { index: 3, ..link.clone() }).len(), 1);
        let newer = text.replace("\"format\":1", "\"format\":3");
        assert_eq!(Originals::from_text(newer.as_bytes(), &attachment), None);
        let error = refuse_newer(newer.as_bytes(), Path::new("/f")).expect_err("a newer version's");
        assert_eq!((error.number, error.known), (3, FORMAT));
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
