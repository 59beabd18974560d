//! RSS contexts as a VF's driver asks for them. There are shared ones, which spread flows evenly over its first queues, as the NIC does
//! anyway; none that are its own, with a key and a table that it can write: the firmware has none left (ENOSPC).

use std::collections::BTreeMap;

use super::mcdi::{McError, Payload, Reply};

/// Entries of a table.
const TABLE: usize = 128;
/// Most queues of a shared context.
const MAX_QUEUES: u32 = 64;
/// Most contexts of a VF.
const MAX_CONTEXTS: usize = 16;
/// What is hashed: addresses, and ports of TCP and UDP.
const FLAGS: u32 = 0xf | 0x3ff << 8 | 0x3ff << 20;

/// The contexts of a driver: how many queues each spreads over.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    all: BTreeMap<u32, u32>,
    made: u32,
}

impl Contexts {
    /// Whether the driver has none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// RSS_CONTEXT_ALLOC.
    pub(crate) fn alloc(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        const EXCLUSIVE: u32 = 0;
        const SHARED: u32 = 1;
        let queues = payload.u32(8)?;
        match payload.u32(4)? {
            EXCLUSIVE => return Err(McError::ENOSPC),
            SHARED if queues.is_power_of_two() && queues <= MAX_QUEUES => {}
            _ => return Err(McError::EINVAL),
        }
        if self.all.len() >= MAX_CONTEXTS {
            return Err(McError::ENOSPC);
        }
        // None of those before, and not the number that means none.
        self.made = self.made.wrapping_add(1) & 0xffff;
        self.all.insert(self.made, queues);
        Ok(Reply::zeros(4).u32(0, self.made))
    }

    /// RSS_CONTEXT_FREE.
    pub(crate) fn free(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let freed = self.all.remove(&payload.u32(0)?);
        freed.map(|_| Reply::default()).ok_or(McError::ENOENT)
    }

    /// RSS_CONTEXT_SET_KEY, _SET_TABLE and _SET_FLAGS: a shared one is not the driver's to write.
    pub(crate) fn set(&self, payload: &Payload<'_>) -> Result<Reply, McError> {
        self.get(payload).and(Err(McError::EPERM))
    }

    /// RSS_CONTEXT_GET_KEY, of a NIC whose hash has this key.
    pub(crate) fn key(&self, payload: &Payload<'_>, key: &[u8]) -> Result<Reply, McError> {
        self.get(payload)?;
        Ok(Reply::zeros(44).bytes(4, key))
    }

    /// RSS_CONTEXT_GET_TABLE.
    pub(crate) fn table(&self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let queues = self.get(payload)?;
        let queue = |at: usize| {
            let queue = at.checked_rem(queues as usize);
            queue
                .and_then(|queue| u8::try_from(queue).ok())
                .unwrap_or(0)
        };
        let table: [u8; TABLE] = std::array::from_fn(queue);
        Ok(Reply::zeros(4_usize.saturating_add(TABLE)).bytes(4, &table))
    }

    /// RSS_CONTEXT_GET_FLAGS.
    pub(crate) fn flags(&self, payload: &Payload<'_>) -> Result<Reply, McError> {
        self.get(payload)?;
        Ok(Reply::zeros(8).u32(4, FLAGS))
    }

    fn get(&self, payload: &Payload<'_>) -> Result<u32, McError> {
        let context = self.all.get(&payload.u32(0)?);
        context.copied().ok_or(McError::ENOENT)
    }
}
