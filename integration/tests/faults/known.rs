//! Faults that are known and not mended yet: none.

use cni_testbox::faults::Known;

pub(crate) const KNOWN: &[Known] = &[];
