//! Man pages and what shells complete with, made from the command line's own words, for packages. Asks no vfnic that runs.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use vfnic::cli::{Cli, Shell};

use crate::failure::{Failure, failed, usage};
use crate::output::print;

/// Writes a man page for the program and one for each of its commands.
pub(crate) fn man(dir: &Path) -> Result<(), Failure> {
    if !dir.is_dir() {
        return Err(usage(format!("{}: there is no such folder", dir.display())));
    }
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)
}

/// Prints what a shell is to read once: it asks this program then, and so knows the VFs of the NIC that runs.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
    let mut script = Vec::new();
    let written: io::Result<()> = match shell {
        Shell::Bash => Bash.write_registration("COMPLETE", "vfnic", "vfnic", "vfnic", &mut script),
        Shell::Zsh => Zsh.write_registration("COMPLETE", "vfnic", "vfnic", "vfnic", &mut script),
        Shell::Fish => Fish.write_registration("COMPLETE", "vfnic", "vfnic", "vfnic", &mut script),
    };
    written.map_err(failed)?;
    print(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_man_page_but_those_for_packages() {
        let dir = tempfile::tempdir().unwrap();
        assert!(man(dir.path()).is_ok());
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name));
        let command = Cli::command();
        for command in command.get_subcommands() {
            let page = page(&format!("vfnic-{}.1", command.get_name()));
            assert_eq!(
                page.is_ok(),
                !command.is_hide_set(),
                "{}",
                command.get_name()
            );
        }
        assert!(page("vfnic.1").unwrap().contains("vfnic\\-show"));
        assert!(page("vfnic-vf.1").unwrap().contains("spoofchk"));
    }
}
