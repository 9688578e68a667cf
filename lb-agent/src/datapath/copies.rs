//! In which order frontends and their copies are written, see [`FrontendCopy`]. At no moment, whichever write fails or whenever the
//! agent dies, is there a copy that says anything but what its frontend does.
//!
//! Of two frontends with one place the one written last has it. The other one is looked up in the hash map, also after the
//! first is gone, until it is written again.

use lb_common::abi::{Family, Frontend, FrontendCopy, FrontendKey};

use super::store::StoreError;

/// The frontends of one family and their copies, each write by itself.
pub trait CopiedFrontends<F: Family> {
    /// Inserts or replaces a frontend, at once for every reader.
    fn write(&mut self, key: &FrontendKey<F>, value: &Frontend) -> Result<(), StoreError>;
    /// Removes a frontend; an absent key is no error.
    fn remove(&mut self, key: &FrontendKey<F>) -> Result<(), StoreError>;
    /// What is in a place.
    fn copy(&self, place: u32) -> Result<FrontendCopy<F>, StoreError>;
    /// Replaces what is in a place. A reader may see a mixture meanwhile.
    fn set_copy(&mut self, place: u32, copy: &FrontendCopy<F>) -> Result<(), StoreError>;
}

/// Inserts or replaces a frontend.
///
/// # Errors
/// That it was not written. That it has no copy is none: it is looked up in the hash map then.
pub fn put<F: Family>(
    frontends: &mut impl CopiedFrontends<F>,
    key: &FrontendKey<F>,
    value: &Frontend,
) -> Result<(), StoreError> {
    empty(frontends, key)?;
    frontends.write(key, value)?;
    if let Err(error) = fill(frontends, key, value) {
        tracing::warn!(error = error.one_line(), "a frontend has no copy: connections to it take a little longer");
    }
    Ok(())
}

/// Removes a frontend; an absent key is no error.
///
/// # Errors
/// That it was not removed.
pub fn delete<F: Family>(frontends: &mut impl CopiedFrontends<F>, key: &FrontendKey<F>) -> Result<(), StoreError> {
    empty(frontends, key)?;
    frontends.remove(key)
}

/// Copies a frontend that is there.
///
/// # Errors
/// That there is no copy.
pub fn fill<F: Family>(
    frontends: &mut impl CopiedFrontends<F>,
    key: &FrontendKey<F>,
    value: &Frontend,
) -> Result<(), StoreError> {
    if !FrontendCopy::is_for(key) {
        return Ok(());
    }
    frontends.set_copy(FrontendCopy::place(key), &FrontendCopy { key: *key, value: *value })
}

/// A frontend is about to change or to go.
fn empty<F: Family>(frontends: &mut impl CopiedFrontends<F>, key: &FrontendKey<F>) -> Result<(), StoreError> {
    if !FrontendCopy::is_for(key) {
        return Ok(());
    }
    let place = FrontendCopy::place(key);
    if frontends.copy(place)?.key == *key { frontends.set_copy(place, &FrontendCopy::default()) } else { Ok(()) }
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
