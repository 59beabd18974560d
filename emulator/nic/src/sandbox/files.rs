//! Which files there are for the control thread (landlock(7)): its folders. What is open stays
//! open. To connect to a socket it takes the socket's own permission, as ever. Says nothing of
//! system calls: that is `calls`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::geteuid;

use super::Needs;

/// What is asked of a kernel that has it; older ones give what they have.
const KNOWN: ABI = ABI::V6;

pub(super) fn is_own(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|meta| meta.uid() == geteuid().as_raw())
}

pub(super) fn confine(needs: &Needs) -> Result<(), String> {
    match restrict(needs) {
        Ok(RulesetStatus::NotEnforced) => {
            Err("this kernel has no Landlock (Linux 5.13, CONFIG_SECURITY_LANDLOCK)".to_owned())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn restrict(needs: &Needs) -> Result<RulesetStatus, RulesetError> {
    let folder = AccessFs::MakeSock
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::ReadDir
        | AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(scope())?
        .create()?;
    for path in &needs.folders {
        // One that is not there needs no rule.
        if let Ok(path) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(path, folder))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// What cannot be reached of other processes: signals, and abstract sockets unless that is where a service manager listens.
fn scope() -> BitFlags<Scope> {
    let manager = std::env::var_os("NOTIFY_SOCKET");
    let is_abstract = manager.is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"));
    match is_abstract {
        true => Scope::Signal.into(),
        false => Scope::from_all(KNOWN),
    }
}
