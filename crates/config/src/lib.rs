//! `configuration.toml`, its drop-ins and a pod's annotations, read into one typed [`Config`].
//!
//! Nothing is accepted and then ignored: every key is a row of the table in [`options`], or one of upstream's keys
//! that are not honoured yet ([`load`] refuses those unless the value says what happens today anyway), or an error.
//! Every effective value knows where it came from ([`Sources`]).

mod error;
mod kernel_params;
mod model;
mod origin;
mod request;
mod value;

pub use error::{Error, Problem};
pub use kernel_params::{KernelParam, KernelParams};
pub use model::{Accelerator, Agent, Config, Hypervisor, LogLevel, Runtime, SharedFs};
pub use origin::{Origin, Setting, Sources};
pub use request::{DEFAULT_PATHS, LoadRequest};
pub use value::{Fixed, Value};

/// Finds, reads, merges and checks the configuration.
///
/// # Errors
/// No file, an unreadable file, or a list of everything that is wrong in it.
pub fn load(request: &LoadRequest) -> Result<Config, Error> {
    Err(Error::NotFound { searched: request.search.clone() })
}
