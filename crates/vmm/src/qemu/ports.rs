//! The PCIe root ports that were made at the start, and which device is in which.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::plan::Nic;

/// Which device, by its id, is in which port.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<Vec<Option<String>>>);

/// Why a device has no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPort {
    /// It is in one already.
    Taken,
    /// All are in use, or kept; how many there are.
    Full(usize),
}

impl Ports {
    /// So many, with the first of `nics` in them.
    pub(super) fn of(count: u8, nics: &[Nic]) -> Self {
        let count = usize::from(count);
        let mut ports: Vec<_> = nics.iter().take(count).map(|nic| Some(nic.id.clone())).collect();
        ports.resize(count, None);
        Self(Mutex::new(ports))
    }

    /// Takes an empty one for the device `id`, if it leaves `spare` others empty; its number.
    pub(super) fn take(&self, id: &str, spare: usize) -> Result<usize, NoPort> {
        let mut ports = self.lock();
        if ports.iter().flatten().any(|used| used == id) {
            return Err(NoPort::Taken);
        }
        let count = ports.len();
        let empty = ports.iter().filter(|used| used.is_none()).count();
        let found = ports.iter_mut().enumerate().find(|(_, used)| used.is_none() && empty > spare);
        let (number, port) = found.ok_or(NoPort::Full(count))?;
        *port = Some(id.to_owned());
        Ok(number)
    }

    /// Whether the device is in one.
    pub(super) fn holds(&self, id: &str) -> bool {
        self.lock().iter().flatten().any(|used| used == id)
    }

    /// The port that the device is in.
    pub(super) fn number(&self, id: &str) -> Option<usize> {
        self.lock().iter().position(|used| used.as_deref() == Some(id))
    }

    pub(super) fn free(&self, id: &str) {
        self.lock().iter_mut().filter(|used| used.as_deref() == Some(id)).for_each(|used| *used = None);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{NoPort, Ports};

    #[test]
    fn a_port_is_kept_empty_for_who_needs_it() {
        let ports = Ports::of(2, &[]);
        assert_eq!(ports.take("a", 1), Ok(0));
        assert_eq!(ports.take("b", 1), Err(NoPort::Full(2)));
        assert_eq!(ports.take("b", 0), Ok(1));
        assert_eq!(ports.take("b", 0), Err(NoPort::Taken));
        assert_eq!((ports.number("b"), ports.number("c")), (Some(1), None));
        ports.free("a");
        assert!(ports.holds("b") && !ports.holds("a"));
        assert_eq!(ports.take("c", 0), Ok(0));
    }
}
