//! Faults that are known and not mended yet. The last number is how many there may be in CI's share.

use cni_testbox::faults::{Case, Known};

pub(crate) const KNOWN: &[Known] = &[
    known("firewall", "firewalld", Case::Add, "success that is told", 12, REMEMBERED),
    known("firewall", "firewalld", Case::First, "success that is told", 12, REMEMBERED),
    known("firewall", "firewalld", Case::Again, "success that is told", 12, BUS),
    known("firewall", "firewalld", Case::Add, "after a failure", 12, BUS),
    known("firewall", "firewalld", Case::First, "after a failure", 12, BUS),
    known("firewall", "firewalld", Case::Changed, "after a failure", 12, BUS),
    known("firewall", "firewalld", Case::Changed, "success that is told", 12, BUS),
    known("firewall", "firewalld", Case::Del, "success that is told", 12, BUS),
    known("firewall", "firewalld", Case::Gc, "success that is told", 12, BUS),
    known("firewall", "firewalld", Case::Del, "after the kill", 12, OWNER),
    known("firewall", "firewalld", Case::Gc, "after the kill", 12, OWNER),
];

const REMEMBERED: &str =
    "ADD only warns where it cannot write the file that tells its sources from Go's";
const BUS: &str = "an error on the way to the bus is taken for a host without firewalld, or comes after the change";
const OWNER: &str = "the elements that name the owner go before the sources in the zone";

const fn known(
    plugin: &'static str,
    backend: &'static str,
    case: Case,
    words: &'static str,
    at_most: usize,
    reason: &'static str,
) -> Known {
    Known { plugin, backend, case, words, at_most, reason }
}
