//! The answer of a jail, which arrives in pieces: what was understood of the first piece stays understood.
#![no_main]

use kata_agent::fuzzing::jail_answer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let parts = jail_answer(bytes);
    let early = jail_answer(&bytes[..usize::from(*cut).min(bytes.len())]);
    assert!(parts.starts_with(&early));
    assert_eq!(jail_answer(&parts.concat()), parts);
});
