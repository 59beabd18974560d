//! The control socket: one line in, one line out, for any number of clients. Never waits for a client.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use super::RunError;
use crate::ctl::{MAX_LINE, Request, Response};

/// Clients at a time; more are turned away.
const MAX_CLIENTS: usize = 64;

/// The listening socket and everybody connected to it.
pub(crate) struct Clients {
    listener: UnixListener,
    path: PathBuf,
    tokens: Range<usize>,
    next_token: usize,
    clients: BTreeMap<usize, Client>,
}

struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    finished: bool,
}

impl Clients {
    /// Listens at `path`; the first of `tokens` is the listener's.
    pub(crate) fn listen(
        path: &Path,
        registry: &Registry,
        tokens: Range<usize>,
    ) -> Result<Clients, RunError> {
        let failed = |source| RunError::Ctl {
            path: path.to_owned(),
            source,
        };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let taken = "another vfnic serves it; stop that one or choose another --socket-dir";
            return Err(failed(io::Error::new(io::ErrorKind::AddrInUse, taken)));
        }
        // Nobody listens: what is left of an earlier run goes. Anything else there makes the bind fail.
        let is_socket = |m: &std::fs::Metadata| m.file_type().is_socket();
        if std::fs::symlink_metadata(path).is_ok_and(|m| is_socket(&m)) {
            let _ = std::fs::remove_file(path);
        }
        let mut listener = UnixListener::bind(path).map_err(failed)?;
        registry
            .register(&mut listener, Token(tokens.start), Interest::READABLE)
            .map_err(failed)?;
        Ok(Clients {
            listener,
            path: path.to_owned(),
            next_token: tokens.start + 1,
            tokens,
            clients: BTreeMap::new(),
        })
    }

    /// Serves what `token` stands for.
    pub(crate) fn serve(
        &mut self,
        token: Token,
        registry: &Registry,
        mut answer: impl FnMut(Request) -> Response,
    ) {
        if token.0 == self.tokens.start {
            self.accept(registry);
            return;
        }
        let Some(client) = self.clients.get_mut(&token.0) else {
            return;
        };
        let over =
            client.serve(&mut answer).is_err() || client.finished && client.output.is_empty();
        if over && let Some(mut gone) = self.clients.remove(&token.0) {
            // It is closed next, which deregisters it as well.
            let _ = registry.deregister(&mut gone.stream);
        }
    }

    fn accept(&mut self, registry: &Registry) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            if self.clients.len() >= MAX_CLIENTS {
                continue;
            }
            // There are fewer clients than tokens, so one is free.
            while self.clients.contains_key(&self.next_token) || self.next_token >= self.tokens.end
            {
                self.next_token = if self.next_token >= self.tokens.end {
                    self.tokens.start + 1
                } else {
                    self.next_token + 1
                };
            }
            let token = self.next_token;
            self.next_token += 1;
            let interest = Interest::READABLE | Interest::WRITABLE;
            if registry
                .register(&mut stream, Token(token), interest)
                .is_ok()
            {
                self.clients.insert(
                    token,
                    Client {
                        stream,
                        input: Vec::new(),
                        output: Vec::new(),
                        finished: false,
                    },
                );
            }
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Client {
    /// Reads no further while an answer waits to be read: a client that does not read costs one answer, not all of them.
    fn serve(&mut self, answer: &mut impl FnMut(Request) -> Response) -> io::Result<()> {
        let mut chunk = [0; 4096];
        loop {
            while !self.output.is_empty() {
                match self.stream.write(&self.output) {
                    Ok(n) => drop(self.output.drain(..n)),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if let Some(end) = self.input.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let response = match serde_json::from_slice(&line) {
                    Ok(request) => answer(request),
                    Err(e) => Response::Refused(format!("not a request: {e}")),
                };
                serde_json::to_writer(&mut self.output, &response)?;
                self.output.push(b'\n');
                continue;
            }
            if self.finished {
                return Ok(());
            }
            if self.input.len() > MAX_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => self.finished = true,
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
