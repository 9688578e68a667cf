//! Asks the programs `lb_owner4/6`, which are loaded beside the others and attached nowhere, what a socket's storage says;
//! and reads which backends and frontends there are. For [`crate::terminate`].

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use bytemuck::{Zeroable as _, bytes_of, bytes_of_mut};
use lb_common::abi::{
    Backend, Ends, Family, Frontend, FrontendKey, OwnerCall, Proto, SockDst, V4, V6, context_at, owner_answer,
};

use super::{
    classifier,
    error::OpenError,
    load::open_pinned,
    paths::Paths,
    store::{failed, found},
};
use crate::datapath::store::{StoreError, map_names};

/// The programs and the backends of both families; may be sent to another thread.
pub struct Owners {
    v4: Owner<V4>,
    v6: Owner<V6>,
}

/// Those of one family.
pub struct Owner<F: Family> {
    program: SchedClassifier,
    backends: HashMap<MapData, u32, Backend<F>>,
    frontends: HashMap<MapData, FrontendKey<F>, Frontend>,
}

/// A family with its programs.
pub trait OwnerFamily: Family {
    /// Those of this family.
    fn owner(owners: &Owners) -> &Owner<Self>;
}

impl OwnerFamily for V4 {
    fn owner(owners: &Owners) -> &Owner<Self> {
        &owners.v4
    }
}

impl OwnerFamily for V6 {
    fn owner(owners: &Owners) -> &Owner<Self> {
        &owners.v6
    }
}

impl Owners {
    /// Loads the programs.
    pub(super) fn load(ebpf: &mut Ebpf, paths: &Paths) -> Result<Self, OpenError> {
        Ok(Self { v4: Owner::load(ebpf, paths, "lb_owner4")?, v6: Owner::load(ebpf, paths, "lb_owner6")? })
    }
}

impl<F: Family> Owner<F> {
    fn load(ebpf: &mut Ebpf, paths: &Paths, name: &'static str) -> Result<Self, OpenError> {
        let (_, program) = classifier::load(ebpf, name)?;
        let open = |map| Ok::<_, OpenError>(Map::HashMap(open_pinned(&paths.maps, map)?));
        let names = map_names::<F>();
        let backends = open(names.backends)?.try_into().map_err(failed(names.backends, "open"))?;
        let frontends = open(names.frontends)?.try_into().map_err(failed(names.frontends, "open"))?;
        Ok(Self { program, backends, frontends })
    }

    /// What the storage of the socket with these ends says, of those in the calling thread's network namespace, if it
    /// was translated. `interface` is the one that the socket is bound to, 0 for none.
    pub fn translation(&self, proto: Proto, ends: Ends<F>, interface: u32) -> Result<Option<SockDst<F>>, ProgramError> {
        let call = OwnerCall { proto: proto.number(), ends, ..OwnerCall::<F>::default() };
        let mut answer = OwnerCall::<F>::zeroed();
        let result = self.program.test_run(TestRunOptions {
            data_in: Some(bytes_of(&call)),
            data_out: Some(bytes_of_mut(&mut answer)),
            ctx_in: Some(&context_at(interface)),
            ..TestRunOptions::new()
        })?;
        Ok((result.return_value == owner_answer::OURS).then_some(answer.translation))
    }

    /// The backend of that id.
    pub fn backend(&self, id: u32) -> Result<Option<Backend<F>>, StoreError> {
        found(self.backends.get(&id, 0), map_names::<F>().backends)
    }

    /// The frontend of that key.
    pub fn frontend(&self, key: &FrontendKey<F>) -> Result<Option<Frontend>, StoreError> {
        found(self.frontends.get(key, 0), map_names::<F>().frontends)
    }

    /// Hands out all backends, in no order.
    pub fn each_backend(&self, mut each: impl FnMut(&Backend<F>)) -> Result<(), StoreError> {
        for entry in self.backends.iter() {
            let (_, backend) = entry.map_err(failed(map_names::<F>().backends, "read"))?;
            each(&backend);
        }
        Ok(())
    }
}
