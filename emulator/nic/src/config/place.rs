//! Where in the text of a file a mistake is. Reads lines, and no TOML: what it does not find is where the section begins.

/// The line of what is wrong in the section that begins at the byte `at`: of a key, in the `[[nic.vf]]` of this VF if it is about one.
pub(super) fn line_of_mistake(text: &str, at: usize, vf: Option<u16>, key: Option<&str>) -> usize {
    let begin = line_of(text, at);
    let lines: Vec<_> = text.lines().skip(begin).map(str::trim_start).collect();
    // A section ends where one begins that is no part of it.
    let is_another = |line: &&str| line.starts_with('[') && !line.starts_with(VF);
    let end = lines.iter().position(is_another);
    let lines = lines.get(..end.unwrap_or(lines.len())).unwrap_or_default();
    let first_vf = lines.iter().position(|line| line.starts_with(VF));
    let own = lines
        .get(..first_vf.unwrap_or(lines.len()))
        .unwrap_or_default();
    let of_nic = |key| Some(begin + 1 + position(own, key?)?);
    let line = match vf {
        None => of_nic(key),
        Some(vf) => line_of_vf(lines, vf, key).map(|line| begin + 1 + line),
    };
    line.unwrap_or(begin)
}

/// What the section of a VF begins with.
const VF: &str = "[[nic.vf]]";

/// The line of a key of a VF among those of its NIC, or else where the VF's section begins. Of several sections the last is meant: that of
/// a VF which has one already is the mistake.
fn line_of_vf(lines: &[&str], vf: u16, key: Option<&str>) -> Option<usize> {
    let begins = lines.iter().enumerate();
    let begins = begins.filter(|(_, line)| line.starts_with(VF));
    let mut sections = begins.map(|(at, _)| {
        let rest = lines.get(at + 1..).unwrap_or_default();
        let len = rest.iter().position(|line| line.starts_with(VF));
        (
            at,
            rest.get(..len.unwrap_or(rest.len())).unwrap_or_default(),
        )
    });
    let is_meant = |section: &[&str]| {
        let index = position(section, "index").and_then(|at| section.get(at)?.split_once('='));
        let number = index.map_or("", |(_, value)| value.split('#').next().unwrap_or_default());
        number.trim().parse() == Ok(vf)
    };
    let (at, section) = sections.rfind(|(_, section)| is_meant(section))?;
    let key = key.and_then(|key| position(section, key));
    Some(key.map_or(at, |key| at + 1 + key))
}

/// Which of the lines gives this key its value.
fn position(lines: &[&str], key: &str) -> Option<usize> {
    let is_key = |line: &&str| {
        let rest = line.strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    lines.iter().position(is_key)
}

/// The line of the byte at `at`, counted from 1.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}
