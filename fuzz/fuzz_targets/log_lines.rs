//! Lines of log files, which hold whatever a guest's console said.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| kata_log_parser::fuzzing::lines(input));
