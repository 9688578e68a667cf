//! What load balancers' health checks are to be told, collected as the Services come by.

use std::collections::BTreeMap;

use crate::{event::ObjectName, model::HealthCheck};

/// By Service, those only that ask for it.
#[derive(Debug, Default)]
pub(super) struct HealthChecks {
    known: BTreeMap<ObjectName, HealthCheck>,
    changed: bool,
}

impl HealthChecks {
    /// This is what the Service asks for now.
    pub(super) fn set(&mut self, service: &ObjectName, check: Option<HealthCheck>) {
        if self.known.get(service) == check.as_ref() {
            return;
        }
        self.changed = true;
        if let Some(check) = check {
            self.known.insert(service.clone(), check);
        } else {
            self.known.remove(service);
        }
    }

    /// All of them, if any changed since the last call.
    pub(super) fn take_changed(&mut self) -> Option<BTreeMap<ObjectName, HealthCheck>> {
        std::mem::take(&mut self.changed).then(|| self.known.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_checks_are_told_whole_when_one_of_them_changed_and_only_then() {
        let name = |name| ObjectName::new("default", name);
        let check = |local_endpoints| HealthCheck { port: 30_000, local_endpoints };
        let mut checks = HealthChecks::default();
        checks.set(&name("plain"), None);
        assert_eq!(checks.take_changed(), None);
        checks.set(&name("a"), Some(check(1)));
        checks.set(&name("b"), Some(check(2)));
        assert_eq!(checks.take_changed(), Some([(name("a"), check(1)), (name("b"), check(2))].into()));
        checks.set(&name("a"), Some(check(1)));
        assert_eq!(checks.take_changed(), None);
        checks.set(&name("a"), None);
        assert_eq!(checks.take_changed(), Some([(name("b"), check(2))].into()));
    }
}
