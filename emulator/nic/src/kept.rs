//! How far what commands change has been written down, for whoever asks while the thread that writes goes on. Writes nothing itself.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// See the module. Clones tell of the same file.
#[derive(Clone, Debug)]
pub struct Kept {
    file: Arc<PathBuf>,
    progress: Arc<Mutex<Progress>>,
}

/// How far that is. Changes are counted from 1.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Up to which they have been written, or could not be.
    pub tried: u64,
    /// Up to which they are on the disk.
    pub kept: u64,
    /// Why those behind that are not: the file, and what the system says.
    pub why_not: Option<Arc<str>>,
}

impl Progress {
    /// Why a change is not on the disk that has been tried.
    #[must_use]
    pub fn misses(&self, change: u64) -> Option<&str> {
        self.why_not.as_deref().filter(|_| change > self.kept)
    }
}

impl Kept {
    /// Nothing has been changed that belongs in this file.
    #[must_use]
    pub fn new(file: PathBuf) -> Kept {
        Kept {
            file: Arc::new(file),
            progress: Arc::default(),
        }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How far it is by now.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let progress = self.progress.lock();
        progress.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All changes up to this one are on the disk, or are not, and why.
    pub(crate) fn note(&self, change: u64, kept: Result<(), String>) {
        let progress = self.progress.lock();
        let mut progress = progress.unwrap_or_else(PoisonError::into_inner);
        progress.tried = change;
        if kept.is_ok() {
            progress.kept = change;
        }
        progress.why_not = kept.err().map(Arc::from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_on_the_disk_a_later_failure_says_nothing() {
        let kept = Kept::new("state.toml".into());
        kept.note(1, Ok(()));
        kept.note(3, Err("full".to_owned()));
        let progress = kept.progress();
        assert_eq!((progress.tried, progress.misses(1)), (3, None));
        assert_eq!(
            [2, 3].map(|change| progress.misses(change)),
            [Some("full"); 2]
        );
        // All are in the file that is written then.
        kept.note(3, Ok(()));
        assert_eq!(kept.progress().misses(2), None);
    }
}
