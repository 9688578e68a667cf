//! What the verifier says about the programs. `cargo test -p lb-tests --test kernels verifier -- --nocapture` prints the
//! table of docs/verifier.md for the kernel that it runs on.

use std::{fs::File, os::fd::AsRawFd as _, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError},
};
use lb_agent::datapath::bpf::{DEVICE_PROGRAMS, PROGRAMS};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::alone;

/// Far from the verifier's limit of a million, and near enough to today's figures to notice a change that costs.
const BUDGET: u32 = 80_000;
/// For the programs on devices, each of which holds both families. Linux 5.10 looks at twice as many as later ones.
const DEVICE_BUDGET: u32 = 700_000;

#[test]
fn the_verifier_takes_the_programs_with_little_work() -> Result<()> {
    let _alone = alone();
    let mut ebpf = EbpfLoader::new().verifier_log_level(VerifierLogLevel::STATS).load_file(object_file()?)?;
    let names = programs(&ebpf);
    let n_programs = PROGRAMS.len() + DEVICE_PROGRAMS.len() + 2;
    assert_eq!(names.len(), n_programs, "those on cgroups and devices, and the two that the agent asks");
    println!(
        "| program | instructions | examined | bytes of machine code | functions | largest stack |\n| --- | --- | --- | --- | --- | --- |"
    );
    for name in names {
        let program = ebpf.program_mut(&name).context("a program that was just listed")?;
        let Account { examined, functions, stack } = account(program).with_context(|| name.clone())?;
        load(program)?;
        let info = program.info()?;
        let instructions = info.size_translated().context("no number of instructions: not as root?")? / 8;
        println!("| `{name}` | {instructions} | {examined} | {} | {functions} | {stack} |", info.size_jitted());
        let budget = if DEVICE_PROGRAMS.contains(&name.as_str()) { DEVICE_BUDGET } else { BUDGET };
        assert!(examined < budget, "{name}: {examined} instructions examined");
    }
    Ok(())
}

fn object_file() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let target = executable.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists());
    let built = target.context("tests are below the target directory")?.join("bpf/lb-ebpf.o");
    Ok(std::env::var_os("LB_EBPF_OBJECT").map_or(built, PathBuf::from))
}

fn programs(ebpf: &Ebpf) -> Vec<String> {
    let mut names: Vec<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    names
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        other => panic!("a program of another type: {:?}", other.prog_type()),
    }
}

/// What the verifier writes about its work.
struct Account {
    /// Instructions, each as often as it was looked at.
    examined: u32,
    /// Functions of a program that are not inlined, itself included.
    functions: usize,
    /// Bytes that the one with the largest stack uses. How much is in use at once the verifier only compares with 512.
    stack: u32,
}

/// aya hands out the verifier's words only with an error, and kernels before 5.16 have them nowhere else. So there is one:
/// after its work the kernel makes a file descriptor (`bpf_prog_load` in kernel/bpf/syscall.c), which it may not.
fn account(program: &mut Program) -> Result<Account> {
    let before = getrlimit(Resource::Nofile);
    // The lowest that is free: all below are in use.
    let next = File::open("/dev/null")?.as_raw_fd().cast_unsigned();
    setrlimit(Resource::Nofile, Rlimit { current: Some(next.into()), ..before })?;
    let refused = load(program);
    setrlimit(Resource::Nofile, before)?;
    match refused {
        Err(ProgramError::LoadError { io_error, verifier_log })
            if io_error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) =>
        {
            parse(&verifier_log.to_string())
        }
        Err(error) => Err(error.into()),
        Ok(()) => bail!("a file descriptor beyond the limit"),
    }
}

/// Reads `processed 5884 insns (limit 1000000) ...` and `stack depth 96+0+160`, behind which newer kernels say more.
fn parse(log: &str) -> Result<Account> {
    let behind = |words: &str| log.lines().find_map(|line| line.strip_prefix(words)).with_context(|| log.to_owned());
    let examined = behind("processed ")?.split(' ').next().unwrap_or_default().parse()?;
    let stack = behind("stack depth ")?;
    let depths = stack.split_whitespace().next().unwrap_or_default().split('+').map(str::parse);
    let depths = depths.collect::<Result<Vec<u32>, _>>().with_context(|| format!("stack depth {stack}"))?;
    Ok(Account { examined, functions: depths.len(), stack: depths.into_iter().max().unwrap_or(0) })
}
