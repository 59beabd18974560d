//! RSS contexts as a VF's driver asks for them: shared ones, which spread flows evenly over its first queues, as the NIC does anyway over all that
//! run; or one that is its own (exclusive), whose key, table and flags it writes. A VF spreads its flows in one way, so that a second one of its own,
//! or both kinds at once, are more than the firmware has (ENOSPC). Spreads nothing: the NIC's policy does, which is told of the one of its own, and of
//! shared ones of fewer queues than run.

use std::collections::BTreeMap;

use vf_model::{DriverRss, HashTypes, RssKey, RssSpread};

use super::mcdi::{McError, Payload, Reply};

/// Entries of a table.
const TABLE: usize = 128;
/// Most queues of a context.
const MAX_QUEUES: u32 = 64;
/// Most contexts of a VF.
const MAX_CONTEXTS: usize = 16;
/// What is hashed of a kind of packets, as flags have it: its addresses, or its addresses and ports.
const ADDRESSES: u32 = 3;
const PORTS: u32 = 0xf;

/// A context.
#[derive(Clone, Debug)]
enum Context {
    /// Evenly over so many queues.
    Shared(u32),
    /// As the driver writes it.
    Exclusive(Box<Exclusive>),
}

/// A driver's own.
#[derive(Clone, Debug)]
struct Exclusive {
    queues: u32,
    key: RssKey,
    table: [u8; TABLE],
    types: HashTypes,
}

/// The contexts of a driver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contexts {
    all: BTreeMap<u32, Context>,
    made: u32,
}

impl Contexts {
    /// Whether the driver has none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the driver has this one.
    pub(crate) fn has(&self, context: u32) -> bool {
        self.all.contains_key(&context)
    }

    /// How the driver spreads the flows of its VF, which has so many receive queues, if it is not as the NIC does without being told: by a context
    /// of its own, or over the first queues only, as the largest of its shared ones does. The key of those is the NIC's.
    pub(crate) fn spread(&self, queues: usize, key: impl FnOnce() -> RssKey) -> Option<DriverRss> {
        if let Some(own) = self.own() {
            return Some(DriverRss {
                key: own.key,
                spread: RssSpread::of_table(&own.table),
                types: own.types,
            });
        }
        let shared = self.all.values().filter_map(|context| match context {
            Context::Shared(queues) => Some(*queues),
            Context::Exclusive(_) => None,
        });
        let most = shared.max().filter(|most| (*most as usize) < queues)?;
        Some(DriverRss {
            key: key(),
            spread: RssSpread::Equal(u16::try_from(most).ok()?),
            types: HashTypes::all(),
        })
    }

    fn own(&self) -> Option<&Exclusive> {
        self.all.values().find_map(|context| match context {
            Context::Shared(_) => None,
            Context::Exclusive(own) => Some(&**own),
        })
    }

    /// RSS_CONTEXT_ALLOC.
    pub(crate) fn alloc(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        const EXCLUSIVE: u32 = 0;
        const SHARED: u32 = 1;
        let queues = payload.u32(8)?;
        let (context, room) = match payload.u32(4)? {
            EXCLUSIVE if (1..=MAX_QUEUES).contains(&queues) => {
                let own = Exclusive {
                    queues,
                    key: RssKey::default(),
                    table: [0; TABLE],
                    types: HashTypes::all().difference(HashTypes::UDPV4.union(HashTypes::UDPV6)),
                };
                (Context::Exclusive(Box::new(own)), self.all.is_empty())
            }
            SHARED if queues.is_power_of_two() && queues <= MAX_QUEUES => {
                let room = self.all.len() < MAX_CONTEXTS && self.own().is_none();
                (Context::Shared(queues), room)
            }
            _ => return Err(McError::EINVAL),
        };
        if !room {
            return Err(McError::ENOSPC);
        }
        // None of those before, and not the number that means none.
        self.made = self.made.wrapping_add(1) & 0xffff;
        self.all.insert(self.made, context);
        Ok(Reply::zeros(4).u32(0, self.made))
    }

    /// RSS_CONTEXT_FREE.
    pub(crate) fn free(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let freed = self.all.remove(&payload.u32(0)?);
        freed.map(|_| Reply::default()).ok_or(McError::ENOENT)
    }

    /// RSS_CONTEXT_SET_KEY.
    pub(crate) fn set_key(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let own = self.get_own(payload)?;
        own.key = RssKey(payload.bytes(4)?);
        Ok(Reply::default())
    }

    /// RSS_CONTEXT_SET_TABLE.
    pub(crate) fn set_table(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let own = self.get_own(payload)?;
        let table: [u8; TABLE] = payload.bytes(4)?;
        if table.iter().any(|queue| u32::from(*queue) >= own.queues) {
            return Err(McError::EINVAL);
        }
        own.table = table;
        Ok(Reply::default())
    }

    /// RSS_CONTEXT_SET_FLAGS. Those that a shared one has may be set there.
    pub(crate) fn set_flags(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let types = types_of(payload.u32(4)?);
        if let Context::Shared(_) = self.get(payload)?
            && types == Ok(HashTypes::all())
        {
            return Ok(Reply::default());
        }
        self.get_own(payload)?.types = types?;
        Ok(Reply::default())
    }

    /// RSS_CONTEXT_GET_KEY, of a NIC whose hash has this key where it is not the driver's.
    pub(crate) fn key(&self, payload: &Payload<'_>, of_nic: RssKey) -> Result<Reply, McError> {
        let key = match self.get(payload)? {
            Context::Shared(_) => of_nic,
            Context::Exclusive(own) => own.key,
        };
        Ok(Reply::zeros(44).bytes(4, &key.0))
    }

    /// RSS_CONTEXT_GET_TABLE.
    pub(crate) fn table(&self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let table = match self.get(payload)? {
            Context::Exclusive(own) => own.table,
            Context::Shared(queues) => std::array::from_fn(|at| {
                let queue = at.checked_rem(*queues as usize);
                let queue = queue.and_then(|queue| u8::try_from(queue).ok());
                queue.unwrap_or(0)
            }),
        };
        Ok(Reply::zeros(4_usize.saturating_add(TABLE)).bytes(4, &table))
    }

    /// RSS_CONTEXT_GET_FLAGS.
    pub(crate) fn flags(&self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let types = match self.get(payload)? {
            Context::Shared(_) => HashTypes::all(),
            Context::Exclusive(own) => own.types,
        };
        Ok(Reply::zeros(8).u32(4, flags_of(types)))
    }

    fn get(&self, payload: &Payload<'_>) -> Result<&Context, McError> {
        self.all.get(&payload.u32(0)?).ok_or(McError::ENOENT)
    }

    /// A shared one is not the driver's to write.
    fn get_own(&mut self, payload: &Payload<'_>) -> Result<&mut Exclusive, McError> {
        let context = self.all.get_mut(&payload.u32(0)?);
        match context.ok_or(McError::ENOENT)? {
            Context::Shared(_) => Err(McError::EPERM),
            Context::Exclusive(own) => Ok(own),
        }
    }
}

/// Of IPv4 and of IPv6: the types of TCP, of UDP and of all packets; where flags have the one bit for TCP and that for all; and where they have
/// the fields of TCP, the next of UDP and of others.
const FAMILIES: [([HashTypes; 3], [u32; 2], u32); 2] = [
    (
        [HashTypes::TCPV4, HashTypes::UDPV4, HashTypes::IPV4],
        [1 << 1, 1],
        8,
    ),
    (
        [HashTypes::TCPV6, HashTypes::UDPV6, HashTypes::IPV6],
        [1 << 3, 1 << 2],
        20,
    ),
];

/// What is hashed, as flags say it. The fields (RSS_MODE) count, unless none is set: then the bits do, which know nothing of UDP.
fn types_of(flags: u32) -> Result<HashTypes, McError> {
    const RESERVED: u32 = 0xf0;
    if flags & RESERVED != 0 {
        return Err(McError::EINVAL);
    }
    let mut types = HashTypes::empty();
    for ([tcp, udp, ip], [tcp_bit, ip_bit], at) in FAMILIES {
        if flags & !0xff == 0 {
            types.set(tcp, flags & tcp_bit != 0);
            types.set(ip, flags & ip_bit != 0);
            continue;
        }
        let fields = flags >> at;
        let others = fields >> 8 & 0xf;
        types.set(ip, others == ADDRESSES);
        for (kind, field) in [(tcp, fields & 0xf), (udp, fields >> 4 & 0xf)] {
            types.set(kind, field == PORTS);
            // What the NIC's hash cannot do: one of the addresses, ports alone, or addresses of some packets and not of others.
            if field != PORTS && field != others {
                return Err(McError::ENOTSUP);
            }
        }
        if others != ADDRESSES && others != 0 {
            return Err(McError::ENOTSUP);
        }
    }
    Ok(types)
}

/// The other way round: bits and fields say the same.
fn flags_of(types: HashTypes) -> u32 {
    let mut flags = 0;
    for ([tcp, udp, ip], [tcp_bit, ip_bit], at) in FAMILIES {
        let others = if types.contains(ip) { ADDRESSES } else { 0 };
        let field = |kind| {
            if types.contains(kind) { PORTS } else { others }
        };
        flags |= (field(tcp) | field(udp) << 4 | others << 8) << at;
        flags |= if types.contains(tcp) { tcp_bit } else { 0 };
        flags |= if types.contains(ip) { ip_bit } else { 0 };
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_what_is_hashed_and_are_read_as_they_were_said() {
        assert_eq!(flags_of(HashTypes::all()), 0x3ff3_ff0f);
        // All but these can be said; without any field, the bits are for those who know no fields.
        for bits in 1..64 {
            let types = HashTypes::from_bits(bits).unwrap();
            assert_eq!(types_of(flags_of(types)), Ok(types));
        }
        let udp = HashTypes::UDPV4 | HashTypes::UDPV6;
        assert_eq!(types_of(0xf), Ok(HashTypes::all() - udp));
        assert_eq!(types_of(1), Ok(HashTypes::IPV4));
        assert_eq!(types_of(0), Ok(HashTypes::empty()));
        assert_eq!(types_of(0x10), Err(McError::EINVAL));
        // The source address alone, TCP without addresses beside IP with them, ports of whatever else.
        for flags in [0x1_1100, 0x3_3000, 0xf_ff00] {
            assert_eq!(types_of(flags), Err(McError::ENOTSUP), "{flags:#x}");
        }
    }
}
