//! `lb_copies4/6` in the kernel. In which order they are written is decided in [`copies`](crate::datapath::copies).

use std::io;

use aya::maps::{Array, Map, MapData};
use lb_common::abi::{Family, FrontendCopy};

use super::{slots::Access, store::failed};
use crate::datapath::store::{StoreError, map_names};

/// The copies of one family, which only the agent has: the maps are those of its programs, and pinned nowhere.
pub(super) struct Copies<F: Family>(Option<Array<MapData, FrontendCopy<F>>>);

impl<F: Family> Copies<F> {
    /// Takes the map from `take`, which gives a map by its name, for who may write.
    pub(super) fn new(
        access: Access,
        take: &mut impl FnMut(&'static str) -> Result<(MapData, u32), StoreError>,
    ) -> Result<Self, StoreError> {
        let name = map_names::<F>().copies;
        match access {
            Access::Write => Ok(Self(Some(Map::Array(take(name)?.0).try_into().map_err(failed(name, "open"))?))),
            Access::Read => Ok(Self(None)),
        }
    }

    pub(super) fn get(&self, place: u32) -> Result<FrontendCopy<F>, StoreError> {
        let array = self.0.as_ref().ok_or_else(|| not_ours::<F>("read"))?;
        array.get(&place, 0).map_err(failed(map_names::<F>().copies, "read"))
    }

    pub(super) fn set(&mut self, place: u32, copy: &FrontendCopy<F>) -> Result<(), StoreError> {
        let array = self.0.as_mut().ok_or_else(|| not_ours::<F>("update"))?;
        array.set(place, copy, 0).map_err(failed(map_names::<F>().copies, "update"))
    }
}

/// Who changed a frontend without its copy would leave programs with what is no more.
fn not_ours<F: Family>(operation: &'static str) -> StoreError {
    let source =
        io::Error::new(io::ErrorKind::PermissionDenied, "only the agent that loaded the programs has this map");
    StoreError::Failed { map: map_names::<F>().copies, operation, source }
}
