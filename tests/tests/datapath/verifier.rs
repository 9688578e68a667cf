//! What the verifier says about the programs. `cargo test -p lb-tests --test datapath verifier -- --nocapture` prints the
//! table of docs/verifier.md.

use aya::{
    EbpfLoader,
    programs::{Program, ProgramError},
};
use lb_agent::datapath::bpf::PROGRAMS;

use super::*;

/// Far from the verifier's limit of a million, and near enough to today's figures to notice a change that costs.
const BUDGET: u32 = 80_000;

#[test]
fn the_verifier_takes_the_programs_with_little_work() {
    let mut ebpf = EbpfLoader::new().load(object()).unwrap();
    let mut names: Vec<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    assert_eq!(names.len(), PROGRAMS.len() + 2, "those on hooks, and the two that the agent asks");
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
        assert!(examined < BUDGET, "{name}: {examined} instructions examined");
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
