//! The control room: the protocol of the control socket, its clients, and what is done about their requests. Both clocks have
//! this one: whoever owns NICs is a [`Nics`] and hands requests to a [`Dispatcher`]. Moves no frame and no ring.

mod client;
pub mod clients;
mod dispatch;
mod observe;
mod protocol;
pub mod show;
pub mod show_vf;
mod stream;
pub mod why;

pub use client::{Connection, CtlError, ask};
pub use dispatch::{Change, Dispatcher, Nics};
pub use observe::Observer;
pub use protocol::{
    AttachTap, CaptureRequest, FilterLine, MAX_LINE, NOT_KEPT, NicCommand, PROTOCOL, Request,
    Response,
};
pub use stream::Takeover;
