//! A process in a pod: does with its sockets what the test on the other end of its pipe asks for (`lb-guest serve`).
//!
//! The same binary is the janitor of a test run (`lb-guest janitor PID`). It decides nothing and knows no Services.

mod hold;
mod http;
mod keep;
mod load;
mod pace;
mod probe;
mod server;
mod session;
mod socket;

use std::io::Read as _;

use anyhow::{Context as _, Result, bail};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve"] => session::run(),
        ["janitor", pid] => clean_up_after(pid.parse().context("the pid is not a number")?),
        _ => bail!("usage: lb-guest serve | lb-guest janitor PID"),
    }
}

/// The other end of stdin is open as long as the test process lives.
fn clean_up_after(pid: u32) -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot read stdin")?;
    lb_tests::run::sweep(pid)
}
