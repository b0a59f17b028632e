//! Giving a running attachment to the Go plugin, without a packet that is lost and without a moment
//! without limits.

use cni_common::cni::AttachmentRequest;
use cni_common::cni::Finding;
use cni_common::cni::hand_over::{HandOver, Hands};
use cni_common::cni::protocol::CniError;

use crate::backend::tc;
use crate::config::Config;
use crate::host::Host;
use crate::plan::Plan;
use crate::{Bandwidth, find_known_end};

impl HandOver for Bandwidth {
    const GO_ADDS: bool = false;

    fn hands(&self, request: &AttachmentRequest) -> Result<Hands, CniError> {
        let config = Config::read(&request.config)?;
        if config.is_unlimited() {
            return Ok(Hands::default());
        }
        let mut host = Host::open()?;
        let end = find_known_end(&mut host, request)?;
        let plan = Plan::new(&request.attachment, &config, end.packets());
        let ours = tc::check(&mut host, &end, &plan)? != Finding::Absent;
        Ok(Hands { ours, go: !ours })
    }

    fn let_go(&self, request: &AttachmentRequest) -> Result<(), CniError> {
        let config = Config::read(&request.config)?;
        let mut host = Host::open()?;
        let end = find_known_end(&mut host, request)?;
        tc::give_to_go(&mut host, &end, &request.attachment, &config)
    }
}
