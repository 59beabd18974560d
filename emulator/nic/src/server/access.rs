//! Opens sockets to those who may connect beside this user. Every socket is this user's alone until then. Makes no socket.

use std::io;
use std::path::Path;

use super::RunError;
use crate::config::{SocketAccess, SocketMode};

/// Who may connect to a kind of sockets beside this user.
#[derive(Clone, Copy)]
pub(super) struct Access {
    mode: Option<SocketMode>,
    group: Option<u32>,
}

impl Access {
    pub(super) fn of(access: &SocketAccess) -> Result<Access, RunError> {
        let SocketAccess { mode, group } = access;
        let group = group.as_ref().map(|name| {
            let unknown = |why: String| RunError::Group {
                name: name.clone(),
                why,
            };
            match (name.parse(), nix::unistd::Group::from_name(name)) {
                (_, Ok(Some(group))) => Ok(group.gid.as_raw()),
                (Ok(number), _) => Ok(number),
                (_, Ok(None)) => Err(unknown("there is no such group".to_owned())),
                (_, Err(error)) => Err(unknown(error.desc().to_owned())),
            }
        });
        let group = group.transpose()?;
        Ok(Access {
            // A group that may not connect would be of no use.
            mode: mode.or(group.map(|_| SocketMode::GROUP)),
            group,
        })
    }

    /// Lets them connect to the socket at `path`, which is this user's alone until then.
    pub(super) fn widen(
        self,
        path: &Path,
        widen: impl FnOnce(u32, Option<u32>) -> io::Result<()>,
    ) -> Result<(), RunError> {
        let Some(mode) = self.mode else {
            return Ok(());
        };
        widen(mode.bits(), self.group).map_err(|source| RunError::Access {
            path: path.to_owned(),
            source,
        })
    }
}
