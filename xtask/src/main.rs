//! `cargo xtask`: builds, runs, tests, packages and measures. This file only dispatches; each task has a file of its
//! own, every flag is in `flags`. Nothing here is part of what runs on a node.

mod agent;
mod bench;
mod components;
mod ebpf;
mod flags;
mod fuzz;
mod image;
mod kernels;
mod kind;
mod libraries;
mod packages;
mod process;
mod run;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use flags::{Task, Xtask};
use workspace::Workspace;

fn main() -> ExitCode {
    match dispatch(Xtask::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> anyhow::Result<ExitCode> {
    let ws = Workspace::locate();
    match task {
        Task::Ebpf => ebpf::build(&ws).and_then(|_| ebpf::build_other(&ws)).map(|()| ExitCode::SUCCESS),
        Task::Build(flags) => agent::build(&ws, flags.profile()).map(|_| ExitCode::SUCCESS),
        Task::Run(flags) => run::run_task(&ws, &flags),
        Task::Bench(flags) => bench::run(&ws, &flags),
        Task::Fuzz(flags) => fuzz::run_task(&ws, &flags).map(|()| ExitCode::SUCCESS),
        Task::Kernels(flags) => kernels::run_task(&ws, &flags).map(|()| ExitCode::SUCCESS),
        Task::Image(flags) => image::write(&ws, &flags).map(|_| ExitCode::SUCCESS),
        Task::Test(flags) => test::run_all(&ws, &flags),
    }
}
