//! Tables of connections that were copied into others of another size. An earlier agent's programs go on with the table that
//! they know until this agent's are in their place; what began meanwhile is in that table alone. So each of them stays pinned, by
//! a name that says when its copy began, until that has been brought over. An agent that dies between the two leaves it
//! to the next.
//!
//! Which flows are brought is decided in [`succession`](crate::datapath::succession), and when by who calls.

use std::{io, os::fd::AsFd as _, path::PathBuf};

use aya::maps::{MapData, MapInfo};
use lb_common::abi::{Family, V4, V6, maps};

use super::{
    error::{OpenError, system},
    flows::FamilyFlows,
    load::{entries, open_pinned},
    paths::Paths,
    pins,
    resize::another,
    store::{failed, wait_for_programs},
};
use crate::{
    clock,
    datapath::{flows::map_name, succession::bring_over},
};

/// Between the name of the map that the table was, and when its copy began, in seconds of the monotonic clock, and its id.
const FORMER: &str = "-former-";

/// Such a table.
#[derive(Debug)]
struct Former {
    pin: PathBuf,
    since_s: u32,
    bring_over: fn(&Former, &Paths, &mut u32) -> Result<(), OpenError>,
}

/// Those that are left to be brought over.
#[derive(Debug)]
pub(super) struct FormerFlows {
    tables: Vec<Former>,
    /// How many flows have been.
    pub(super) brought: u32,
}

/// Keeps the table that is pinned as `map`, which is about to be copied.
pub(super) fn keep(paths: &Paths, map: &'static str) -> Result<(), OpenError> {
    let table = open_pinned(&paths.maps, map)?;
    let id = table.info().map_err(failed(map, "look at"))?.id();
    let pin = paths.maps.join(format!("{map}{FORMER}{}-{id}", clock::monotonic_s()));
    // Of an agent that died in this second, having come as far.
    pins::remove(&pin)?;
    table.pin(&pin).map_err(|error| system("pin", &pin)(io::Error::other(error)))
}

impl FormerFlows {
    /// Those that this agent has kept, and earlier ones.
    pub(super) fn find(paths: &Paths) -> Result<Self, OpenError> {
        let tables = entries(&paths.maps)?.into_iter().filter_map(Former::of).collect();
        Ok(Self { tables, brought: 0 })
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Brings over what began after the copies. No program that writes these tables may be attached any more. After an error the
    /// rest is still there, to be brought over by another try.
    pub(super) fn bring_over(&mut self, paths: &Paths) -> Result<(), OpenError> {
        wait_for_programs(maps::NODE, open_pinned(&paths.maps, maps::NODE)?.fd().as_fd())?;
        while let Some(table) = self.tables.last() {
            (table.bring_over)(table, paths, &mut self.brought)?;
            pins::remove(&table.pin)?;
            self.tables.pop();
        }
        Ok(())
    }
}

impl Former {
    fn of(pin: PathBuf) -> Option<Self> {
        let (map, rest) = pin.file_name()?.to_str()?.split_once(FORMER)?;
        let (since_s, _id) = rest.split_once('-')?;
        let since_s = since_s.parse().ok()?;
        let bring_over = match map {
            maps::CONNS4 => Self::bring_over::<V4>,
            maps::CONNS6 => Self::bring_over::<V6>,
            _ => return None,
        };
        Some(Self { pin, since_s, bring_over })
    }

    fn bring_over<F: Family>(&self, paths: &Paths, brought: &mut u32) -> Result<(), OpenError> {
        let name = map_name::<F>();
        let id = |map: &MapData| map.info().map(|info: MapInfo| info.id()).map_err(failed(name, "look at"));
        let present = open_pinned(&paths.maps, name)?;
        let former = MapData::from_pin(&self.pin).map_err(failed(name, "open the former"))?;
        // An agent died that had kept it and not yet put the copy in its place.
        if id(&former)? == id(&present)? {
            return Ok(());
        }
        let mut former = FamilyFlows::<F>::over(another(&former, name)?, paths)?;
        let mut present = FamilyFlows::<F>::over(present, paths)?;
        Ok(bring_over(&mut former, &mut present, self.since_s, brought)?)
    }
}
