//! Everything a sandbox's files need on the host: the shared directory, containers' root file systems and
//! volumes, and the daemon that shows them to the guest.

pub mod intent;
