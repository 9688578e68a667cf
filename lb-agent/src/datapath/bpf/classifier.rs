//! Loading a program for packets (BPF_PROG_TYPE_SCHED_CLS). Attaches nothing.

use aya::{
    Ebpf,
    programs::{ProgramError, SchedClassifier},
};

use super::{
    error::OpenError,
    load::chain,
    programs::{last_lines, missing},
};

/// Loads it, unless that was done, and gives a handle of its own: the object stays with the thread that opened it.
pub(super) fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<(u32, SchedClassifier), OpenError> {
    let refused = |error: ProgramError| OpenError::Program { program: name.to_owned(), reason: chain(&error) };
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).ok_or_else(|| missing(name))?.try_into().map_err(refused)?;
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
        Err(error) => {
            return Err(OpenError::Program { program: name.to_owned(), reason: last_lines(&chain(&error)) });
        }
    }
    let info = program.info().map_err(refused)?;
    let id = info.id();
    Ok((id, SchedClassifier::from_program_info(info, name.into()).map_err(refused)?))
}
