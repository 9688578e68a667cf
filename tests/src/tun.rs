//! A link between two machines whose frames begin with IP, as a tunnel or a modem has them: two tun devices, and a thread that
//! carries packets from one to the other. Sets no address.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};

use crate::netns::NetNs;

/// The link; its devices go when it is dropped.
pub struct TunLink {
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    carrier: Option<JoinHandle<io::Result<()>>>,
}

impl TunLink {
    /// Makes a device of the given name at either end; both are down.
    pub fn new(near: (&NetNs, &str), far: (&NetNs, &str)) -> Result<Self> {
        let ends = [open(near)?, open(far)?];
        let (stopped, stop) = rustix::pipe::pipe().context("cannot make a pipe")?;
        let carry = move || carry(&ends, &stopped);
        let carrier = thread::Builder::new().name("tun".to_owned()).spawn(carry).context("cannot start a thread")?;
        Ok(Self { stop: Some(stop), carrier: Some(carrier) })
    }
}

impl Drop for TunLink {
    fn drop(&mut self) {
        drop(self.stop.take());
        match self.carrier.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("a link of tun devices broke: {error}"),
            Some(Err(_)) => eprintln!("the thread of a link of tun devices panicked"),
            Some(Ok(Ok(()))) | None => {}
        }
    }
}

/// A tun device, which is there as long as the file is open.
fn open((netns, name): (&NetNs, &str)) -> Result<File> {
    let opened = netns.run(|| attach(name))?;
    opened.with_context(|| format!("cannot make the tun device {name} in {}", netns.path().display()))
}

fn attach(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).map_err(io::Error::other)?;
    // `struct ifreq` (linux/if.h): 16 bytes of name, then the flags, 40 bytes in all.
    let mut request = [0_u8; 40];
    request.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which `request` is as large as.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    if result == 0 { Ok(file) } else { Err(io::Error::last_os_error()) }
}

/// Carries packets both ways until the other end of `stopped` is closed.
fn carry(ends: &[File; 2], stopped: &OwnedFd) -> io::Result<()> {
    let mut packet = vec![0; usize::from(u16::MAX)];
    loop {
        let [near, far] = ends;
        let mut polled =
            [PollFd::new(stopped, PollFlags::IN), PollFd::new(near, PollFlags::IN), PollFd::new(far, PollFlags::IN)];
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let [stopped, from_near, from_far] = polled.map(|fd| !fd.revents().is_empty());
        if stopped {
            return Ok(());
        }
        for (from, to, is_ready) in [(near, far, from_near), (far, near, from_far)] {
            if is_ready {
                carry_one(from, to, &mut packet)?;
            }
        }
    }
}

fn carry_one(mut from: &File, mut to: &File, packet: &mut [u8]) -> io::Result<()> {
    let len = match from.read(packet) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        other => other?,
    };
    match to.write(packet.get(..len).unwrap_or_default()) {
        // The device is down: lost, as on a wire that is unplugged.
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(()),
        other => other.map(drop),
    }
}
