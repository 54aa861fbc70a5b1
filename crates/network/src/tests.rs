//! Namespaces of the tests' own, and what goes through them. Root and `ip` (iproute2) are needed.

mod attach;
mod leftovers;
mod loopback;
mod namespaces;
mod rates;
mod support;
mod watch;
