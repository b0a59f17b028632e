//! `conditionsV4` and `conditionsV6`: any words, for both families.

#![no_main]

use cni_portmap::conditions::compile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let words: Vec<String> = text.split('\n').map(str::to_owned).collect();
    for v4 in [true, false] {
        if let Ok(alternatives) = compile(&words, v4) {
            assert!((1..=64).contains(&alternatives.len()), "{} rules", alternatives.len());
            // What was understood must also be printable.
            for statement in alternatives.iter().flatten() {
                assert!(!statement.to_string().is_empty());
            }
        }
    }
});
