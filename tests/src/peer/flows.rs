//! The agent's connection tables, as far as a test forgets what is in them. Reads nothing else of the maps.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use lb_common::abi::{Flow, FlowKey, V4, V6, maps};

/// Removes all flows of the agent that pins its maps there, so that a source port that comes again is no part of an
/// older conversation.
pub(super) fn forget(bpffs: &Path) -> Result<()> {
    let directory = bpffs.join("lb/maps");
    forget_all::<FlowKey<V4>, Flow<V4>>(&directory.join(maps::CONNS4))?;
    forget_all::<FlowKey<V6>, Flow<V6>>(&directory.join(maps::CONNS6))
}

fn forget_all<K: Pod, V: Pod>(pin: &Path) -> Result<()> {
    let forget = || -> Result<()> {
        let mut flows = HashMap::<_, K, V>::try_from(Map::HashMap(MapData::from_pin(pin)?))?;
        let keys = flows.keys().collect::<Result<Vec<K>, _>>()?;
        for key in keys {
            match flows.remove(&key) {
                // The agent ages flows at the same time.
                Err(MapError::KeyNotFound) => {}
                other => other?,
            }
        }
        Ok(())
    };
    forget().with_context(|| format!("cannot empty {}", pin.display()))
}
