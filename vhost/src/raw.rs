//! All `unsafe` of the crate: what cannot be had without, and what is several times quicker with it. Nothing of it is public.
#![allow(unsafe_code)]

pub(crate) mod copy;
pub(crate) mod core_dump;
pub(crate) mod interrupt;
pub(crate) mod packet;
pub(crate) mod sigbus;
pub(crate) mod tap;
