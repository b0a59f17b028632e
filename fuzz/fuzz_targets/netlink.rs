//! What the kernel sends: any datagram, read as every kind of answer.

#![no_main]

use cni_common::kernel::fuzzing::read_datagram;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| read_datagram(datagram));
