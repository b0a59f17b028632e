//! Giving a running attachment to the Go plugin.
//!
//! What is set stays set. The Go plugin's own ADD would take that for the originals, so ours become its
//! backup; sysctls, which its DEL gives nobody back, are not in one.

use cni_common::cni::AttachmentRequest;
use cni_common::cni::hand_over::{HandOver, Hands};
use cni_common::cni::protocol::CniError;

use crate::backend::{Store, give_to_go};
use crate::config::Config;
use crate::{Tuning, warn};

impl HandOver for Tuning {
    const GO_ADDS: bool = false;

    fn hands(&self, request: &AttachmentRequest) -> Result<Hands, CniError> {
        let data_dir = Config::read_leniently(&request.config).data_dir;
        let ours = match Store::open(&data_dir, &request.attachment)? {
            Some(store) => store.has_ours()?,
            None => false,
        };
        Ok(Hands { ours, go: !ours })
    }

    fn let_go(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let data_dir = Config::read_leniently(&request.config).data_dir;
        if let Some(store) = Store::open(&data_dir, &request.attachment)? {
            warn(&request.log, give_to_go(&store)?);
        }
        Ok(())
    }
}
