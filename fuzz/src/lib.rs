//! What fuzz targets share: machines for the programs that the agent compiles, and what must be true of everything the
//! agent does with a request before it starts a jail. A broken assertion here is a bug in the product.

pub mod device_machine;
pub mod request;
pub mod seccomp_machine;
pub mod seccomp_model;

use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// One of `of`, chosen by the input.
///
/// # Errors
/// `of` is empty.
pub fn pick<'a, T: ?Sized>(input: &mut Unstructured<'_>, of: &[&'a T]) -> Result<&'a T> {
    input.choose(of).copied()
}

/// Whether nothing in `text` but line ends would control a terminal.
#[must_use]
pub fn is_printable(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
}
