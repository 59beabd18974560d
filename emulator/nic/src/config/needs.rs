//! What a configuration takes of the system once everything is open. Asks the system for nothing.

use std::path::{Path, PathBuf};

use super::{Config, SocketRole};
use crate::metrics::MetricsAddress;
use crate::sandbox::Needs;

impl Config {
    /// What the thread needs that serves its sockets, if its state is kept in the folder `state`, or nowhere.
    #[must_use]
    pub fn needs(&self, state: Option<&Path>) -> Needs {
        let vfs = || self.nics.iter().flat_map(|nic| &nic.vf);
        let served = vfs().filter(|vf| vf.role != SocketRole::Client);
        let metrics = match &self.metrics {
            Some(MetricsAddress::Unix(path)) => Some(path),
            _ => None,
        };
        let ctl = self.ctl_socket();
        let sockets = served.map(|vf| &vf.socket).chain(&self.observe);
        let sockets = sockets.chain(metrics).chain([&ctl]);
        let mut folders: Vec<PathBuf> = sockets.map(|socket| folder_of(socket)).collect();
        folders.push(self.socket_dir.clone());
        folders.extend(state.map(Path::to_owned));
        let met = vfs().flat_map(|vf| {
            let client = (vf.role == SocketRole::Client).then_some(&vf.socket);
            client.into_iter().chain(&vf.qmp)
        });
        let gives_groups = self.access.group.is_some() || self.ctl_group.is_some();
        Needs::new(folders, met.map(|socket| folder_of(socket)), gives_groups)
    }
}

fn folder_of(socket: &Path) -> PathBuf {
    match socket.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
