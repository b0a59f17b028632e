//! A running attachment goes to the Go plugin of the same name, so that its DEL finds all that there is
//! of it, and traffic goes on meanwhile.

use super::holder::Finding;
use super::plugin::{AttachmentRequest, GcRequest, Plugin};
use super::protocol::{CniError, ErrorCode};

/// Who has something of an attachment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hands {
    /// This plugin.
    pub ours: bool,
    /// The Go plugin, all of it.
    pub go: bool,
}

/// Fails unless the Go plugin has all of an attachment.
pub fn require_go(found: Finding) -> Result<(), CniError> {
    let missing = match found {
        Finding::Sound => return Ok(()),
        Finding::Absent => "it has nothing of it".to_owned(),
        Finding::Mismatches(missing) => missing.join("; "),
    };
    let text = format!("the Go plugin has not all of it: {missing}");
    Err(CniError::new(ErrorCode::CheckFailed, text))
}

/// A plugin whose attachments can change hands.
pub trait HandOver: Plugin {
    /// Whether the Go plugin's ADD makes its own beside ours. Where both need the same place,
    /// [`HandOver::let_go`] makes of ours what the Go plugin would have made.
    const GO_ADDS: bool;

    /// Who has something of the attachment. The configuration is that of its ADD.
    fn hands(&self, request: &AttachmentRequest) -> Result<Hands, CniError>;

    /// Before the Go plugin's ADD: what is ours goes out of its way, and stays in force.
    fn make_room(&self, _request: &AttachmentRequest) -> Result<(), CniError> {
        Ok(())
    }

    /// Gives up what is ours, and touches nothing that the Go plugin has. An error leaves ours in
    /// force: the Go plugin has not all of it.
    fn let_go(&self, request: &AttachmentRequest) -> Result<(), CniError>;

    /// Removes what attachments shared, once there are none of ours; what the Go plugin shares stays.
    fn leave(&self, request: &GcRequest) -> Result<(), CniError> {
        self.gc(request)
    }
}
