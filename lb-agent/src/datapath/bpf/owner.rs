//! Asks the programs `lb_owner4/6`, which are loaded beside the others and attached nowhere, what a socket's storage says;
//! and reads which backends serve. For [`crate::terminate`].

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use bytemuck::{Zeroable as _, bytes_of, bytes_of_mut};
use lb_common::abi::{Backend, Ends, Family, OwnerCall, Proto, SockDst, V4, V6, maps, owner_answer};

use super::{
    error::OpenError,
    load::{chain, open_pinned},
    paths::Paths,
    store::failed,
};
use crate::datapath::store::StoreError;

/// Where `ifindex` stands in `struct __sk_buff` (include/uapi/linux/bpf.h).
const IFINDEX_OFFSET: usize = 40;

/// The programs and the backends of both families; may be sent to another thread.
pub struct Owners {
    v4: Owner<V4>,
    v6: Owner<V6>,
}

/// Those of one family.
pub struct Owner<F: Family> {
    program: SchedClassifier,
    backends: HashMap<MapData, u32, Backend<F>>,
    map: &'static str,
}

/// A family with its programs.
pub trait OwnerFamily: Family {
    /// Those of this family.
    fn of(owners: &Owners) -> &Owner<Self>;
}

impl OwnerFamily for V4 {
    fn of(owners: &Owners) -> &Owner<Self> {
        &owners.v4
    }
}

impl OwnerFamily for V6 {
    fn of(owners: &Owners) -> &Owner<Self> {
        &owners.v6
    }
}

impl Owners {
    /// Loads the programs.
    pub(super) fn load(ebpf: &mut Ebpf, paths: &Paths) -> Result<Self, OpenError> {
        Ok(Self {
            v4: Owner::load(ebpf, paths, "lb_owner4", maps::BACKENDS4)?,
            v6: Owner::load(ebpf, paths, "lb_owner6", maps::BACKENDS6)?,
        })
    }
}

impl<F: Family> Owner<F> {
    fn load(ebpf: &mut Ebpf, paths: &Paths, name: &'static str, map: &'static str) -> Result<Self, OpenError> {
        let refused = |reason: String| OpenError::Program { program: name.to_owned(), reason };
        let program = ebpf.program_mut(name).ok_or_else(|| refused("it is not in the embedded object".to_owned()))?;
        let program: &mut SchedClassifier = program.try_into().map_err(|error: ProgramError| refused(chain(&error)))?;
        program.load().map_err(|error| refused(chain(&error)))?;
        // A handle of its own: the object stays with the thread that opened it.
        let info = program.info().map_err(|error| refused(chain(&error)))?;
        let program = SchedClassifier::from_program_info(info, name.into()).map_err(|error| refused(chain(&error)))?;
        let backends = Map::HashMap(open_pinned(&paths.maps, map)?).try_into().map_err(failed(map, "open"))?;
        Ok(Self { program, backends, map })
    }

    /// What the storage of the socket with these ends says, of those in the calling thread's network namespace, if it
    /// was translated. `interface` is the one that the socket is bound to, 0 for none.
    pub fn translation(&self, proto: Proto, ends: Ends<F>, interface: u32) -> Result<Option<SockDst<F>>, ProgramError> {
        let call = OwnerCall { proto: proto.number(), ends, ..OwnerCall::<F>::default() };
        let mut answer = OwnerCall::<F>::zeroed();
        let mut context = [0; IFINDEX_OFFSET + 4];
        context[IFINDEX_OFFSET..].copy_from_slice(&interface.to_ne_bytes());
        let result = self.program.test_run(TestRunOptions {
            data_in: Some(bytes_of(&call)),
            data_out: Some(bytes_of_mut(&mut answer)),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        })?;
        Ok((result.return_value == owner_answer::OURS).then_some(answer.translation))
    }

    /// The backend of that id.
    pub fn backend(&self, id: u32) -> Result<Option<Backend<F>>, StoreError> {
        match self.backends.get(&id, 0) {
            Ok(backend) => Ok(Some(backend)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed(self.map, "read")(error)),
        }
    }

    /// Hands out all backends, in no order.
    pub fn each_backend(&self, mut each: impl FnMut(&Backend<F>)) -> Result<(), StoreError> {
        for entry in self.backends.iter() {
            let (_, backend) = entry.map_err(failed(self.map, "read"))?;
            each(&backend);
        }
        Ok(())
    }
}
