//! Frontends that clients outside see otherwise than those on this node: the entry for the inside says so by a flag, and
//! the answer is in an entry of its own. That one is there before the flag is, and as long as it is.

use lb_common::abi::{Family, FrontendKey, frontend_flags, scope};

use super::Table;

/// Where the answer for clients outside is.
pub(in crate::plan) fn external<F: Family>(internal: &FrontendKey<F>) -> FrontendKey<F> {
    FrontendKey { scope: scope::EXTERNAL, ..*internal }
}

impl<F: Family> Table<F> {
    /// The entry for the inside that sends programs to this one, whoever's it is.
    pub(super) fn led_from(&self, key: &FrontendKey<F>) -> Option<FrontendKey<F>> {
        let inside = FrontendKey { scope: scope::INTERNAL, ..*key };
        let differs = self.frontends.get(&inside)?.value.flags & frontend_flags::EXTERNAL_DIFFERS != 0;
        (key.scope == scope::EXTERNAL && differs).then_some(inside)
    }
}
