//! The cookie of a network namespace: the number by which the programs know it.
#![expect(unsafe_code, reason = "a socket option that no library has")]

use std::{io, os::fd::AsRawFd as _};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The cookie of the calling thread's network namespace; `None` where the kernel does not tell it (before Linux 5.14,
/// which brought SO_NETNS_COOKIE: kernel commit e8b9eab99232).
///
/// # Errors
/// No socket can be had.
pub fn cookie() -> io::Result<Option<u64>> {
    // Not bound, so that the namespace's devices need not be up.
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).map_err(io::Error::other)?;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
    // SAFETY: the option is a u64 (socket(7)), and the kernel writes at most `length` bytes, which is the size of `cookie`.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut cookie).cast(), &raw mut length) };
    if result == 0 {
        return Ok(Some(cookie));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_a_number_that_stays() {
        let first = cookie().unwrap();
        assert_ne!(first, Some(0));
        assert_eq!(cookie().unwrap(), first);
    }
}
