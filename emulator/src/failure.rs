//! What ends the program other than success. Prints nothing.

use vfnic::server::RunError;

/// What ends the program other than success: one line, and whose fault it is.
pub(crate) enum Failure {
    /// Of who has said what to do.
    Usage(String),
    /// Of something else.
    Failed(String),
}

/// The command or the configuration is wrong.
pub(crate) fn usage(e: impl ToString) -> Failure {
    Failure::Usage(e.to_string())
}

/// Something has not worked.
pub(crate) fn failed(e: impl ToString) -> Failure {
    Failure::Failed(e.to_string())
}

/// The vfnic that runs has answered something else than was asked, as one of another version might.
pub(crate) fn unanswered() -> Failure {
    failed("the answer is not to this question")
}

/// Whichever of the two it is.
pub(crate) fn refused(e: RunError) -> Failure {
    if e.is_usage() { usage(e) } else { failed(e) }
}
