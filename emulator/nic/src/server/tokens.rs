//! Whose event of the server's poll is which. Registers nothing.

use std::ops::Range;

use mio::Token;

/// The waker, whom the planes' threads and the writer of the state use.
pub(super) const WAKE: Token = Token(0);
/// A signal that says stop.
pub(super) const SIGNAL: Token = Token(1);
/// Links of the host's devices.
pub(super) const LINKS: Token = Token(2);
/// Tokens of the control socket and its clients.
pub(super) const CTL: Range<usize> = 3..1 << 15;
/// Tokens of the observers' socket and of observers.
pub(super) const OBSERVERS: Range<usize> = 1 << 15..1 << 16;
/// Tokens of VFs: host times [`VFS`] plus VF, from here.
pub(super) const VF: usize = 1 << 16;
/// Tokens that a host has for its VFs.
pub(super) const VFS: usize = 256;
/// Tokens of their monitors, in the same way.
pub(super) const QMP: usize = 1 << 30;
