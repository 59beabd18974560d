//! The frame by which a hypervisor announces a guest that has moved and does not do that itself (RFC 903): switches learn from it
//! behind which of their ports the guest's address is now. Nobody has to answer it. Sends none.

use crate::mac::MacAddr;

const REVERSE_REQUEST: u8 = 3;

/// A RARP request that the guest with this station address could have sent, to everybody: 60 bytes, the shortest frame without
/// its FCS.
#[must_use]
pub fn announcement(mac: MacAddr) -> [u8; 60] {
    let mut frame = [0; 60];
    // Ethernet; then RARP of Ethernet and IPv4, without protocol addresses.
    frame[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, REVERSE_REQUEST]);
    for sender_or_target in [6, 22, 32] {
        frame[sender_or_target..sender_or_target + 6].copy_from_slice(&mac.0);
    }
    frame
}
