//! The HTTP server: who may speak (`door.rs`), the table of endpoints (`routes.rs`), and how answers are written.

mod body;
mod door;
mod listen;
mod negotiate;
mod pace;
mod page;
mod routes;
mod timeline;

pub(crate) use door::Door;
pub(crate) use listen::{Server, serve};
pub(crate) use routes::App;
