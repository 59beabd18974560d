//! Which vfnic and which of its NICs a command is for. Asks nobody.

use std::path::PathBuf;

use clap::Args;

/// Which NIC of which vfnic a command is for; it may be said in front of the command or behind it.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub struct Target {
    /// Control socket of a running vfnic [default: ctl.sock in the runtime directory]
    #[arg(long, global = true, value_name = "SOCKET")]
    pub ctl: Option<PathBuf>,
    /// Which NIC is meant, when there are several
    #[arg(long, global = true, value_name = "NAME")]
    pub nic: Option<String>,
}
