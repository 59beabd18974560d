//! Orders to a subject's administration, by way of its control adapter. Knows no order by its words.

use std::io;

use crate::adapter::{Adapter, Answer};
use crate::bench::Bench;
use crate::verdict::Failure;

impl Bench {
    /// Gives the control adapter an order.
    ///
    /// # Errors
    /// [`Failure::System`] if there is no adapter, or it does not answer as one does. Silence is the subject's failure, which has not done it; the
    /// adapter is started again.
    pub fn ask(&self, words: &str) -> Result<Answer, Failure> {
        let missing = || io::Error::other("there is no control adapter");
        let mut adapter = self.adapter.borrow_mut();
        match adapter.as_mut().ok_or_else(missing)?.ask(words) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                *adapter = Some(Adapter::start(&self.subject.control)?);
                Err(Failure::Wrong(error.to_string()))
            }
            said => Ok(said?),
        }
    }

    /// Gives an order that the subject has to carry out; what was asked for, if anything was.
    ///
    /// # Errors
    /// A refusal is wrong. [`Failure::Unsupported`] if there is no such thing.
    pub fn administer(&self, words: &str) -> Result<String, Failure> {
        match self.ask(words)? {
            Answer::Done(said) => Ok(said),
            Answer::Unsupported => Err(Failure::Unsupported(words.to_owned())),
            Answer::Refused(why) => Err(Failure::Wrong(format!("'{words}' was refused: {why}"))),
        }
    }

    /// Gives an order that the subject has to refuse.
    ///
    /// # Errors
    /// Obedience is wrong. [`Failure::Unsupported`] if there is no such thing.
    pub fn refuses(&self, words: &str) -> Result<(), Failure> {
        match self.ask(words)? {
            Answer::Refused(_) => Ok(()),
            Answer::Unsupported => Err(Failure::Unsupported(words.to_owned())),
            Answer::Done(_) => Err(Failure::Wrong(format!("'{words}' was not refused"))),
        }
    }

    /// Whether there is a control adapter.
    pub(crate) fn is_administered(&self) -> bool {
        self.adapter.borrow().is_some()
    }
}
