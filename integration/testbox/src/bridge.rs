//! Attachments behind Debian's real `bridge`.

use serde_json::Value;

use crate::{Attachment, Call, Container, Implementation, Network, Outcome};

impl Container {
    /// Runs `bridge` ADD.
    pub fn join(&self, network: &Network, ifname: &str) -> Attachment {
        let mut attachment = Attachment {
            container: self.clone(),
            ifname: ifname.into(),
            network: network.clone(),
            result: Value::Null,
        };
        attachment.result = attachment.bridge("ADD").expect_result();
        attachment
    }
}

impl Attachment {
    fn bridge(&self, command: &str) -> Outcome {
        Call::new("bridge", command, self)
            .replace_config(self.network.bridge_config())
            .run_as(Implementation::Go)
    }

    /// Runs `bridge` DEL: the interface goes and its addresses are free again.
    pub fn leave(&self) {
        self.bridge("DEL").expect_silence();
    }
}
