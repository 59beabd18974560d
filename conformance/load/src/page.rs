//! A bench as a page: what is printed, and the picture. Complete in itself, without scripts; a wide table scrolls on a phone. Measures
//! nothing.

use std::io;

use super::plot;
use super::record::{Record, Run};
use super::table;

/// What the page looks like, in light and in dark.
const STYLE: &str = "\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
pre { overflow-x: auto; font-size: 0.8rem; }
svg { max-width: 100%; height: auto; background: #fff; }";

/// The page of a record, whose headline is given.
///
/// # Errors
/// There is nothing to draw.
pub(super) fn html(record: &Record, headline: &str) -> io::Result<String> {
    let mut printed = Vec::new();
    let mut last = None;
    for runs in record.runs.chunk_by(is_same) {
        table::line(&mut printed, runs, last)?;
        last = runs.first().map(|run| run.mode);
    }
    let picture = plot::svg(record).map_err(io::Error::other)?;
    let (title, printed) = (
        escape(&record.label),
        escape(&String::from_utf8_lossy(&printed)),
    );
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>vf-conformance bench: {title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n<p>{}</p>\n<p>Made by {}</p>\n{picture}\n<pre>\n{printed}</pre>\n</body>\n</html>\n",
        escape(headline),
        escape(&record.made_by),
    ))
}

/// Whether two runs stand on one line.
fn is_same(a: &Run, b: &Run) -> bool {
    (a.mode, a.size, a.beside) == (b.mode, b.size, b.beside)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
