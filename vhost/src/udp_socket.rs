//! An option of UDP sockets that neither rustix nor nix has (udp(7)). Sends and receives nothing.

use std::io;
use std::os::fd::AsFd;

use libc::c_int;

use crate::raw::packet::set_option;

/// Linux's `UDP_NO_CHECK6_RX`.
const NO_CHECK6_RX: c_int = 102;

/// Has a socket of IPv6 take datagrams whose checksum is zero, which a tunnel's may be (RFC 6935, RFC 7348 5): else the kernel drops them.
///
/// # Errors
/// The kernel's: it is no UDP socket.
pub fn accept_without_checksum(socket: impl AsFd) -> io::Result<()> {
    let fd = socket.as_fd();
    set_option(fd, libc::IPPROTO_UDP, NO_CHECK6_RX, &c_int::from(true))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    #[test]
    fn datagrams_without_a_checksum_come_when_they_are_asked_for() {
        const NO_CHECK6_TX: c_int = 101;
        let Ok(to) = UdpSocket::bind("[::1]:0") else {
            eprintln!("skipped: datagrams without a checksum, because there is no IPv6 here");
            return;
        };
        let from = UdpSocket::bind("[::1]:0").unwrap();
        let yes = c_int::from(true);
        set_option(from.as_fd(), libc::IPPROTO_UDP, NO_CHECK6_TX, &yes).unwrap();
        let came = || {
            from.send_to(b"tunnel", to.local_addr().unwrap()).unwrap();
            to.recv(&mut [0; 16])
        };
        to.set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        assert!(came().is_err());
        accept_without_checksum(&to).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(came().unwrap(), 6);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(accept_without_checksum(&file).is_err());
    }
}
