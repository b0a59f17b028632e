//! A plugin whose work this release does not do yet, and says so.

use super::error::{CniError, ErrorCode};
use super::plugin::{AttachmentRequest, GcRequest, Plugin, StatusRequest};
use super::result::CniResult;

/// Names the plugin that [`Unavailable`] stands for.
pub trait PluginName {
    /// The plugin's name.
    const NAME: &'static str;
}

/// Refuses ADD, CHECK and STATUS. DEL and GC succeed, because ADD never made anything: a chain
/// that failed here can still be taken down.
#[derive(Debug, Default)]
pub struct Unavailable<N>(std::marker::PhantomData<N>);

impl<N> Unavailable<N> {
    /// The plugin.
    #[must_use]
    pub const fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<N: PluginName> Unavailable<N> {
    fn refuse<T>() -> Result<T, CniError> {
        Err(CniError::new(
            ErrorCode::NotAvailable,
            format!("cni-chain's {} is not implemented in this release", N::NAME),
        )
        .with_details(format!("keep the Go plugin of the same name for {} entries", N::NAME)))
    }
}

impl<N: PluginName> Plugin for Unavailable<N> {
    const NAME: &'static str = N::NAME;

    fn add(&self, _: &AttachmentRequest) -> Result<CniResult, CniError> {
        Self::refuse()
    }
    fn del(&self, _: &AttachmentRequest) -> Result<(), CniError> {
        Ok(())
    }
    fn check(&self, _: &AttachmentRequest) -> Result<(), CniError> {
        Self::refuse()
    }
    fn gc(&self, _: &GcRequest) -> Result<(), CniError> {
        Ok(())
    }
    fn status(&self, _: &StatusRequest) -> Result<(), CniError> {
        Self::refuse()
    }
}
