//! The network namespace that this process runs in, as the programs know it.
#![expect(unsafe_code, reason = "a socket option that no library has")]

use std::{io, mem, net::UdpSocket, os::fd::AsRawFd as _};

/// The cookie of this process's network namespace; `None` where the kernel does not tell it (before Linux 5.14, which
/// brought SO_NETNS_COOKIE: kernel commit e8b9eab99232).
pub(super) fn own_cookie() -> io::Result<Option<u64>> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::1", 0)))?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&cookie)).map_err(io::Error::other)?;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `cookie`.
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
        let cookie = own_cookie().unwrap();
        assert_ne!(cookie, Some(0));
        assert_eq!(own_cookie().unwrap(), cookie);
    }
}
