//! Verdicts as `nf_tables` numbers them: enum `nft_verdicts`, and `NF_DROP` and `NF_ACCEPT` of
//! `<linux/netfilter.h>`. Pure.

use cni_common::kernel::attributes::Attributes;

/// What a rule or a policy decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Continue,
    Return,
    Jump(String),
    Goto(String),
    Other,
}

impl Verdict {
    /// Reads `NFTA_DATA_VERDICT` or `NFTA_TRACE_VERDICT`.
    pub(crate) fn read(parts: &Attributes<'_>) -> Option<Self> {
        // enum nft_verdict_attributes
        const CODE: u16 = 1;
        const CHAIN: u16 = 2;
        Some(Self::of(parts.be32(CODE)?, parts.text(CHAIN)))
    }

    /// The verdict with this number, and where it leads.
    pub(crate) fn of(code: u32, chain: Option<String>) -> Self {
        match (code.cast_signed(), chain) {
            (0, _) => Self::Drop,
            (1, _) => Self::Accept,
            (-1, _) => Self::Continue,
            (-3, Some(chain)) => Self::Jump(chain),
            (-4, Some(chain)) => Self::Goto(chain),
            (-5, _) => Self::Return,
            _ => Self::Other,
        }
    }
}
