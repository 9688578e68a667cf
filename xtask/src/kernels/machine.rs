//! A virtual machine without KVM: boots, prints what it says, and judges by that how its tests ended.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What init says when the tests have ended, before their exit status.
const MARK: &str = "lb-kernels: exit status ";

/// Far more than a machine takes whose processor is interpreted on a busy machine: then something hangs.
const PATIENCE_S: &str = "1200";

/// What a machine is made of.
pub(super) struct Machine {
    /// What the user calls its kernel.
    pub(super) name: &'static str,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
}

impl Machine {
    /// Boots it, and waits for the end.
    pub(super) fn boot(&self) -> Result<()> {
        let Self { name, kernel, initramfs } = self;
        // What qemu 7.2 is bad at is left out. With several processors one runs instructions that another has just replaced, and a
        // kernel that patches itself falls over its own breakpoints. CMPXCHG16B spoils the flags, and Linux 6.12 falls over that.
        // It ends with whoever called: by the terminal's Ctrl-C as well, and where this process is killed.
        let mut qemu = Command::new("setpriv");
        qemu.args([
            "--pdeathsig",
            "TERM",
            "timeout",
            "--foreground",
            "--kill-after=10",
            PATIENCE_S,
            "qemu-system-x86_64",
        ])
        .args(["-accel", "tcg", "-cpu", "max,-cx16", "-m", "2048"])
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-device", "virtio-rng-pci"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        // A kernel that panics ends the machine. It trusts the processor's random numbers, since it has no other source early.
        .args(["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on"]);
        let mut child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start qemu-system-x86_64")?;
        let mut said = Vec::new();
        for line in BufReader::new(child.stdout.take().context("no pipe from qemu")?).split(b'\n') {
            let line = line.context("read what the machine prints")?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            eprintln!("{name:>6} | {line}");
            said.push(line);
        }
        let ended = child.wait().context("wait for qemu")?;
        if let Err(why) = judge(&said) {
            bail!("Linux {name}: {why} (qemu ended with {ended})");
        }
        Ok(())
    }
}

/// Tests that ended well, and at least one.
fn judge(said: &[String]) -> Result<(), String> {
    match said.iter().find_map(|line| line.strip_prefix(MARK)) {
        None => return Err("the machine ended before its tests did".to_owned()),
        Some("0") => {}
        Some(status) => return Err(format!("its tests ended with status {status}")),
    }
    let passed = said.iter().filter_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next());
    let n_passed: u32 = passed.filter_map(|number| number.parse::<u32>().ok()).sum();
    if n_passed == 0 { Err("no test ran".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lines: &[&str]) -> Result<(), String> {
        judge(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_machine_whose_tests_passed_is_fine() {
        assert_eq!(verdict(&["test result: ok. 2 passed; 0 failed", "lb-kernels: exit status 0"]), Ok(()));
    }

    #[test]
    fn a_failed_test_a_panic_of_the_kernel_and_no_test_at_all_are_failures() {
        assert!(verdict(&["test result: FAILED. 1 passed; 1 failed", "lb-kernels: exit status 101"]).is_err());
        assert!(verdict(&["test result: ok. 2 passed; 0 failed", "Kernel panic - not syncing"]).is_err());
        assert!(verdict(&["test result: ok. 0 passed; 0 failed", "lb-kernels: exit status 0"]).is_err());
    }
}
