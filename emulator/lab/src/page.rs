//! What all pages have in common: a document that is complete in itself, without scripts, for light, dark and paper, a phone's
//! width too; and its charts. Never measures.

pub(crate) mod chart;

/// What pages look like.
const STYLE: &str = include_str!("page/style.css");

/// A document: its title, what stands over the headline, the headline's text, what follows it, and its sections.
pub(crate) fn document(title: &str, kicker: &str, head: &str, main: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>vfnic {kicker}: {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"kicker\">vfnic {kicker}</p>\n<h1>{title}</h1>\n{head}\n</header>\n\
         <main>\n{main}\n</main>\n</body>\n</html>\n",
        title = escape(title),
        kicker = escape(kicker)
    )
}

/// Text that HTML and SVG take literally.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
