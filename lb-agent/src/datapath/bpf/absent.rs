//! `lb_nofront4/6` and `lb_noback4/6`: says where frontends may be before they are written, so that no packet for them is taken for
//! somebody else's. See [`lb_common::abi::Absent`].

use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
};
use lb_common::abi::{Absent, Family, FrontendKey, N_ABSENT, Place, maps};

use super::{resize::duplicate, store::failed};
use crate::datapath::store::{StoreError, map_names};

const ALL: [&str; 4] = [maps::NOFRONT4, maps::NOFRONT6, maps::NOBACK4, maps::NOBACK6];

/// Begins an installation: nobody is anywhere. New maps say nothing, so one that is made beside others that live, whatever became
/// of the first, makes foreign packets slower and nothing else.
pub(super) fn begin(ebpf: &Ebpf) -> Result<(), StoreError> {
    for name in ALL {
        let mut lines: Array<_, Absent> =
            Map::Array(duplicate(ebpf, name)?).try_into().map_err(failed(name, "open"))?;
        (0..N_ABSENT).try_for_each(|line| lines.set(line, Absent::NOBODY, 0)).map_err(failed(name, "update"))?;
    }
    Ok(())
}

/// `lb_nofront4/6`. Lines are read and written back, so there must be one writer at a time: the reconciler's store. That of the
/// repeated self-tests only puts the canary's frontends, which have been noted before the reconciler's first write.
pub(super) struct Frontends<F: Family> {
    lines: Array<MapData, Absent>,
    family: std::marker::PhantomData<F>,
}

impl<F: Family> Frontends<F> {
    /// Takes the map from `take`, which gives a map by its name.
    pub(super) fn new(
        take: &mut impl FnMut(&'static str) -> Result<(MapData, u32), StoreError>,
    ) -> Result<Self, StoreError> {
        let name = map_names::<F>().nofront;
        let lines = Map::Array(take(name)?.0).try_into().map_err(failed(name, "open"))?;
        Ok(Self { lines, family: std::marker::PhantomData })
    }

    /// A frontend is about to be written.
    pub(super) fn note(&mut self, key: &FrontendKey<F>) -> Result<(), StoreError> {
        Place::of_frontend(key).into_iter().try_for_each(|place| self.clear(place))
    }

    fn clear(&mut self, place: Place) -> Result<(), StoreError> {
        let name = map_names::<F>().nofront;
        let line = self.lines.get(&place.line, 0).map_err(failed(name, "read"))?;
        if line.may_be(place) {
            return Ok(());
        }
        self.lines.set(place.line, line.with(place), 0).map_err(failed(name, "update"))
    }
}
