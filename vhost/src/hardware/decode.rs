//! How descriptors that a driver has made available become chains: read once each and in batches, those of a chain put together. What one says
//! is for the ring's [format](super::DescriptorFormat) to say. Never looks at what is in the buffers.

use std::ops::Range;

use super::{
    Decoded, ENTRY_MAX, HardwareRing, PLAIN_REPORT, Partial, REPORT, Rest, TxRequest, after,
};
use crate::chain::{AHEAD, CHAIN_MAX, Chain, Descriptor, Token, WRITE, look_ahead};
use crate::error::RingError;
use crate::memory::GuestSlice;
use crate::raw::copy::CACHE_LINE;

impl HardwareRing {
    /// Decodes descriptors that were seen, up to as many chains as fit. A chain that does not end yet is kept: nothing is read twice.
    pub(super) fn decode_ahead(&mut self) -> Result<(), RingError> {
        let kept = self.partial.map_or(self.rest.len(), |partial| partial.from);
        self.rest.drain(..kept);
        if let Some(partial) = &mut self.partial {
            partial.from = 0;
        }
        (self.ahead_at, self.ahead_len) = (0, 0);
        let mut words = [[0; 2]; AHEAD];
        'seen: while self.scan != self.seen && self.ahead_len < AHEAD {
            let n = self.read(&mut words)?;
            let mut at = 0;
            while at < n && self.ahead_len < AHEAD {
                let plain = self.decode_plain(&mut words[at..n]);
                at += plain;
                if plain > 0 {
                    continue;
                }
                match self.decode(words[at]) {
                    // First those that came before: it will be met again.
                    Err(_) if self.ahead_len > 0 => break 'seen,
                    decoded => decoded?,
                }
                at += 1;
            }
        }
        let mut window = self.mem.window(self.hint);
        look_ahead(&mut window, &mut self.ahead[..self.ahead_len], self.buffers);
        self.hint = window.region();
        Ok(())
    }

    /// Reads descriptors from `scan` on; how many.
    fn read(&self, words: &mut [[u64; 2]; AHEAD]) -> Result<usize, RingError> {
        let per_part = usize::from(self.size) / self.parts.len();
        let scan = usize::from(self.scan);
        let at = scan % per_part;
        let seen = usize::from(self.distance(self.scan, self.seen));
        let n = seen.min(AHEAD).min(per_part - at);
        let part = self.parts.get(scan / per_part);
        let table = part.ok_or(RingError::RingOutside)?.slice()?;
        let descs = table.subslice(at * self.entry, n * self.entry);
        let descs = descs.ok_or(RingError::RingOutside)?;
        let mut raw = [0; AHEAD * ENTRY_MAX];
        descs.copy_to(&mut raw[..n * self.entry]);
        if let ENTRY_MAX = self.entry {
            let (raw, _) = raw[..n * ENTRY_MAX].as_chunks::<ENTRY_MAX>();
            for (words, raw) in words.iter_mut().zip(raw) {
                let raw = u128::from_le_bytes(*raw);
                *words = [raw as u64, (raw >> 64) as u64];
            }
        } else {
            let (raw, _) = raw[..n * 8].as_chunks::<8>();
            for (words, raw) in words.iter_mut().zip(raw) {
                *words = [u64::from_le_bytes(*raw), 0];
            }
        }
        if self.writable {
            let next = (at + n).min(per_part)..(at + seen.min(2 * AHEAD)).min(per_part);
            self.will_complete(&table, next);
        }
        Ok(n)
    }

    /// Asks for the lines of descriptors that will be read next, to be written: the driver's core has them, and each of a receive
    /// ring is written back, by a store that would hold up those behind it.
    #[inline]
    fn will_complete(&self, table: &GuestSlice<'_>, descs: Range<usize>) {
        for desc in descs.step_by(CACHE_LINE / self.entry) {
            table.will_write(desc * self.entry);
        }
    }

    /// Decodes descriptors from `scan` on as long as each is a frame of its own for which nothing is asked; how many. Most are this.
    #[inline]
    fn decode_plain(&mut self, words: &mut [[u64; 2]]) -> usize {
        if self.partial.is_some() {
            return 0;
        }
        let (from, flags) = (self.ahead_len, self.flags());
        let room = words.len().min(AHEAD - from);
        let n = self.format.decode_plain(&mut words[..room], &self.state);
        let mut at = self.scan;
        let ahead = self.ahead[from..].iter_mut();
        for (chain, &[gpa, said]) in ahead.zip(&words[..n]) {
            let report = said & PLAIN_REPORT != 0;
            let first = Descriptor::new(gpa, said as u32, flags);
            *chain = Chain::new(token(at, 1, report), first);
            at = after(self.size, at, 1);
        }
        self.ahead_more[from..from + n].fill(false);
        if !self.states.is_empty() {
            for i in 0..n as u16 {
                let at = self.after(self.scan, i);
                self.states[usize::from(at)] = self.state;
            }
        }
        (self.scan, self.ahead_len) = (at, from + n);
        n
    }

    /// Decodes the descriptor at `scan`.
    fn decode(&mut self, words: [u64; 2]) -> Result<(), RingError> {
        let first = match &self.partial {
            Some(Partial {
                descs: CHAIN_MAX, ..
            }) => return Err(RingError::ChainTooLong),
            Some(_) => false,
            None => true,
        };
        let at = self.scan;
        let before = self.state;
        let decoded = self.format.decode(words[0], words[1], &mut self.state);
        if self.states.is_empty() && self.state != before {
            // The first that leaves something: nothing was left for any before it.
            self.states = vec![before; usize::from(self.size)];
        }
        if first && let Some(state) = self.states.get_mut(usize::from(at)) {
            *state = before;
        }
        self.scan = self.after(at, 1);
        self.decode_piece(at, words, decoded);
        Ok(())
    }

    /// One descriptor of several, or one that asks for something.
    fn decode_piece(&mut self, at: u16, raw: [u64; 2], decoded: Decoded) {
        let mut partial = self.partial.take().unwrap_or(Partial {
            first: at,
            descs: 0,
            buffer: None,
            request: TxRequest::default(),
            from: self.rest.len(),
        });
        partial.descs += 1;
        let Decoded::Buffer {
            gpa,
            len,
            last,
            report,
            asks,
        } = decoded
        else {
            self.partial = Some(partial);
            return;
        };
        let desc = Descriptor::new(gpa, len, self.flags());
        match &mut partial.buffer {
            Some(first) => {
                *first = first.and_next();
                self.rest.push(desc);
            }
            none => {
                *none = Some(desc);
                if asks {
                    partial.request = self.format.request(raw, &mut self.state);
                }
            }
        }
        if !last {
            self.partial = Some(partial);
            return;
        }
        let token = token(partial.first, partial.descs, report);
        let first = partial.buffer.unwrap_or_default();
        self.keep(token, first, partial.from, partial.request);
    }

    fn flags(&self) -> u16 {
        if self.writable { WRITE } else { 0 }
    }

    /// Keeps a chain that was decoded, whose further buffers are in [`HardwareRing::rest`] from there on.
    fn keep(&mut self, token: Token, first: Descriptor, from: usize, request: TxRequest) {
        self.ahead[self.ahead_len] = Chain::new(token, first);
        self.ahead_more[self.ahead_len] = true;
        self.ahead_rest[self.ahead_len] = Rest {
            from: from as u32,
            to: self.rest.len() as u32,
            request,
        };
        self.ahead_len += 1;
    }
}

/// What a chain is returned by that begins there and has so many descriptors.
fn token(id: u16, descs: u16, report: bool) -> Token {
    let report = if report { REPORT } else { 0 };
    Token {
        id,
        descs: descs | report,
    }
}
