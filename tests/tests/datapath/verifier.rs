//! What the verifier says about the programs. `cargo test -p lb-tests --test datapath verifier -- --nocapture` prints the
//! table of docs/verifier.md.

use aya::{
    EbpfLoader,
    programs::{Program, ProgramError},
};
use lb_agent::datapath::bpf::{DEVICE_PROGRAMS, PROGRAMS};

use super::*;

/// Far from the verifier's limit of a million, and near enough to today's figures to notice a change that costs.
const BUDGET: u32 = 80_000;
/// For the programs on devices, each of which holds both families.
const DEVICE_BUDGET: u32 = 400_000;

#[test]
fn the_verifier_takes_the_programs_with_little_work() {
    let mut ebpf = EbpfLoader::new().load(object()).unwrap();
    let mut names: Vec<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    let n_programs = PROGRAMS.len() + DEVICE_PROGRAMS.len() + 2;
    assert_eq!(names.len(), n_programs, "those on cgroups and devices, and the two that the agent asks");
    println!(
        "| program | instructions | examined by the verifier | bytes of machine code |\n| --- | --- | --- | --- |"
    );
    for name in names {
        let program = ebpf.program_mut(&name).unwrap();
        load(program).unwrap();
        let info = program.info().unwrap();
        let instructions = info.size_translated().unwrap() / 8;
        let examined = info.verified_instruction_count().unwrap();
        println!("| `{name}` | {instructions} | {examined} | {} |", info.size_jitted());
        let budget = if DEVICE_PROGRAMS.contains(&name.as_str()) { DEVICE_BUDGET } else { BUDGET };
        assert!(examined < budget, "{name}: {examined} instructions examined");
    }
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        other => panic!("a program of another type: {:?}", other.prog_type()),
    }
}
