//! The screen of `vfnic top`, from what it knows: lines that are as wide and as many as the terminal has room for. Asks nobody and changes
//! nothing.

use ratatui::Frame;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use vfnic::control::show::ShowNic;

use super::state::{Mode, Pane, Row, Top, guest};
use crate::rates::{NicBetween, Rates};
use crate::units::{bit_rate, count, event_rate, packet_rate, percent, uptime};

/// How it looks: with colours, or for terminals and people without.
#[derive(Clone, Copy)]
pub(crate) struct Theme {
    pub(crate) colour: bool,
}

impl Theme {
    fn in_colour(self, colour: Color) -> Style {
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new().add_modifier(Modifier::BOLD),
        }
    }
}

const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);

/// Lines of the pane below the table, its title among them.
const PANE: usize = 7;
/// The table has so many lines at least before there is a pane.
const LEAST_ROWS: usize = 3;

const KEYS: &str = "q quit  ? help  s sort  / filter  tab pane  p path  e state  c capture  a all";

const HELP: &str = "\
\x20 up, down     choose a VF (also k and j, page up and down, home, end)
  s            sort by VF, rx, tx, packets, drops
  /            show only VFs whose line has this in it: esc ends it
  a            show VFs that never had a guest, too
  tab          below: drops by reason, queues, threads

  p            the VF's path: direct, mediated        P   path auto
  e            its link: auto, enable, disable
  c            capture it into a file in this folder; c again ends that

  q, ctrl-c    quit, which changes nothing

Rates count whole Ethernet frames without preamble, gap and checksum. rx
is what the guest receives, tx what it sends.";

/// Draws all of it.
pub(crate) fn draw(frame: &mut Frame<'_>, top: &Top, socket: &str, theme: Theme) {
    let area = frame.area();
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let lines = screen(top, socket, theme, width, height);
    for (y, line) in (area.y..area.bottom()).zip(lines) {
        frame.buffer_mut().set_line(area.x, y, &line, area.width);
    }
}

fn screen(
    top: &Top,
    socket: &str,
    theme: Theme,
    width: usize,
    height: usize,
) -> Vec<Line<'static>> {
    let body = height.saturating_sub(1);
    let mut lines = match (top.shown(), top.mode) {
        (_, Mode::Help) => help(),
        (None, _) => vec![Line::styled(format!("waiting for vfnic at {socket}"), BOLD)],
        (Some(_), _) => table(top, theme, width, body),
    };
    lines.resize(body, Line::default());
    lines.push(last_line(top, theme, width));
    lines
}

fn help() -> Vec<Line<'static>> {
    let title = Line::styled("vfnic top", BOLD);
    std::iter::once(title)
        .chain(HELP.lines().map(Line::raw))
        .collect()
}

fn last_line(top: &Top, theme: Theme, width: usize) -> Line<'static> {
    match top.mode {
        Mode::Filter => Line::styled(format!("/{}_", top.filter), BOLD),
        Mode::Help => Line::styled("any key goes back", DIM),
        Mode::Table if !top.note.is_empty() => {
            let mut note = top.note.clone();
            if let Some((end, _)) = note.char_indices().nth(width) {
                // Which it could not be seen to be otherwise.
                note.truncate(end);
                note.pop();
                note.push('…');
            }
            Line::styled(note, theme.in_colour(Color::Yellow))
        }
        Mode::Table => Line::styled(KEYS, DIM),
    }
}

fn table(top: &Top, theme: Theme, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![title(top, width)];
    let nics = top.nics();
    let rows = top.rows();
    let selected = top.selected(&rows);
    // The selected VF's is always there, and leaves half of the lines to VFs.
    let of_selected = rows.get(selected).map(|row| row.nic);
    let of_selected = nics
        .iter()
        .position(|(nic, _)| Some(&*nic.name) == of_selected);
    let most = (height / 2).saturating_sub(1).max(1);
    let (shown, is_more) = match nics.len() > most {
        true => (most.saturating_sub(1).max(1), most > 1),
        false => (nics.len(), false),
    };
    let first = (of_selected.unwrap_or(0) + 1).saturating_sub(shown);
    for (nic, between) in nics.iter().skip(first).take(shown) {
        lines.push(nic_line(nic, between.as_ref(), theme));
    }
    if is_more {
        let more = nics.len() - shown;
        lines.push(Line::styled(format!("and {more} more NICs"), DIM));
    }
    lines.push(Line::styled(
        pad(
            &format!(
                "{:<7}{:>4} {:<9}{:<10}{:>10}{:>10}{:>10}{:>10}{:>9}",
                "NIC", "VF", "PATH", "GUEST", "RX", "TX", "RX", "TX", "DROPS"
            ),
            width,
        ),
        REVERSED,
    ));
    let room = height.saturating_sub(lines.len());
    let pane = if room >= LEAST_ROWS + PANE { PANE } else { 0 };
    let room = room - pane;
    // The selected one is always there.
    let first = (selected + 1).saturating_sub(room);
    for (i, row) in rows.iter().enumerate().skip(first).take(room) {
        lines.push(row_line(row, top, i == selected, theme, width));
    }
    if rows.is_empty() {
        let why = match top.filter.as_str() {
            "" => "no VF to show: a shows all".to_owned(),
            filter => format!("no VF has '{filter}' in its line: esc shows all again"),
        };
        lines.push(Line::styled(why, DIM));
    }
    if pane > 0 {
        lines.resize(height - pane, Line::default());
        lines.extend(
            pane_lines(top, rows.get(selected), &nics, width, theme)
                .into_iter()
                .take(pane),
        );
    }
    lines
}

fn title(top: &Top, width: usize) -> Line<'static> {
    let up = top.shown().map_or(0.0, |show| show.uptime_s);
    let mut left = format!(
        "vfnic top   up {}   sorted by {}",
        uptime(up),
        top.sort.name()
    );
    if !top.filter.is_empty() {
        left += &format!("   with '{}'", top.filter);
    }
    let right = match top.unused() {
        0 => String::new(),
        1 => "1 VF without a guest".to_owned(),
        n => format!("{n} VFs without a guest"),
    };
    let gap = width.saturating_sub(left.chars().count() + right.len());
    Line::styled(format!("{left}{:gap$}{right}", ""), BOLD)
}

/// A NIC's port, and how busy the hypervisor is.
fn nic_line(nic: &ShowNic, between: Option<&NicBetween<'_>>, theme: Theme) -> Line<'static> {
    let link = match (nic.link.up, nic.link.carrier) {
        (true, _) => Span::raw(bit_rate(nic.link.rate_mbps as f64 * 1e6)),
        (false, true) => Span::styled("link down", theme.in_colour(Color::Red)),
        (false, false) => Span::styled("no carrier", theme.in_colour(Color::Red)),
    };
    let rates = between.map_or_else(String::new, |nic| {
        let wire = nic.wire();
        let hypervisor = nic.cpu(|nic| &nic.hypervisor, 1);
        let hypervisor =
            hypervisor.map_or_else(String::new, |busy| format!("  hyp {}", percent(busy)));
        format!(
            "  wire rx {:>9} tx {:>9} busy {}{hypervisor}",
            bit_rate(wire.rx_bits),
            bit_rate(wire.tx_bits),
            percent(nic.tx_utilisation()),
        )
    });
    let name = Span::styled(format!("{:<8}", short(&nic.name)), BOLD);
    Line::from(vec![name, link, Span::raw(rates)])
}

fn row_line(row: &Row<'_>, top: &Top, selected: bool, theme: Theme, width: usize) -> Line<'static> {
    let vf = row.vf;
    let guest = match top.captured.contains(&(row.nic.to_owned(), vf.vf)) {
        true => "captured",
        false => guest(vf),
    };
    let rate = |of: fn(f64) -> String, n: fn(&Rates) -> f64| {
        row.rates
            .as_ref()
            .map_or("-".to_owned(), |rates| of(n(rates)))
    };
    let name = format!("{:<7}{:>4} ", short(row.nic), vf.vf);
    let path = format!("{:<9}", vf.path);
    let rest = format!(
        "{guest:<10}{:>10}{:>10}{:>10}{:>10}",
        rate(bit_rate, |r| r.rx_bits),
        rate(bit_rate, |r| r.tx_bits),
        rate(packet_rate, |r| r.rx_packets),
        rate(packet_rate, |r| r.tx_packets),
    );
    let dropped = row.rates.as_ref().map_or(0.0, Rates::dropped);
    let drops = match dropped {
        0.0 => format!("{:>9}", "-"),
        dropped => format!("{:>9}", event_rate(dropped)),
    };
    if selected {
        return Line::styled(pad(&(name + &path + &rest + &drops), width), REVERSED);
    }
    let path_style = match &*vf.path {
        "mediated" => theme.in_colour(Color::Yellow),
        "auto" => theme.in_colour(Color::Cyan),
        _ => Style::new(),
    };
    let rest_style = if vf.connected { Style::new() } else { DIM };
    let drops_style = match dropped {
        0.0 => Style::new(),
        _ => theme.in_colour(Color::Red),
    };
    Line::from(vec![
        Span::raw(name),
        Span::styled(path, path_style),
        Span::styled(rest, rest_style),
        Span::styled(drops, drops_style),
    ])
}

fn pane_lines(
    top: &Top,
    row: Option<&Row<'_>>,
    nics: &[(&ShowNic, Option<NicBetween<'_>>)],
    width: usize,
    theme: Theme,
) -> Vec<Line<'static>> {
    let of = row.map_or_else(String::new, |row| {
        format!("of {} vf {}", row.nic, row.vf.vf)
    });
    let (title, lines) = match top.pane {
        Pane::Drops => (format!("drops {of}"), row.map_or_else(Vec::new, drops)),
        Pane::Queues => (
            format!("queues {of}"),
            row.map_or_else(Vec::new, |row| queues(row, nics)),
        ),
        Pane::Threads => ("threads".to_owned(), threads(nics)),
    };
    let none = lines.is_empty().then(|| Line::styled("none", DIM));
    // What no longer fits is told, not cut off.
    let more = (lines.len() >= PANE).then(|| {
        let more = lines.len() - (PANE - 2);
        Line::styled(
            format!("and {more} more: vfnic show"),
            theme.in_colour(Color::Yellow),
        )
    });
    let room = if more.is_some() { PANE - 2 } else { PANE - 1 };
    std::iter::once(Line::styled(pad(&title, width), REVERSED))
        .chain(none)
        .chain(lines.into_iter().take(room).map(Line::raw))
        .chain(more)
        .collect()
}

/// What is dropped now first.
fn drops(row: &Row<'_>) -> Vec<String> {
    let total = &row.vf.total;
    let ways = [("rx", &total.rx_drops), ("tx", &total.tx_drops)];
    let all = ways.into_iter().flat_map(|(way, drops)| {
        let drops = drops.iter().filter(|(_, n)| **n > 0);
        drops.map(move |(reason, n)| {
            let rates = row.rates.as_ref();
            let now = rates.and_then(|r| r.drops.get(&(way, reason.clone())));
            (now.copied().unwrap_or(0.0), *n, way, reason)
        })
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    let lines = all.into_iter().map(|(now, n, way, reason)| {
        format!(
            "{way}  {reason:<24} {:>10} {:>10} in all",
            event_rate(now),
            count(n)
        )
    });
    lines.collect()
}

fn queues(row: &Row<'_>, nics: &[(&ShowNic, Option<NicBetween<'_>>)]) -> Vec<String> {
    let nic = nics.iter().find(|(nic, _)| nic.name == row.nic);
    let Some((_, Some(between))) = nic else {
        return Vec::new();
    };
    let queues = between.queues(row.vf).into_iter().enumerate();
    let lines = queues.map(|(n, rates)| {
        format!(
            "queue {n:<3}  rx {:>9} {:>9}   tx {:>9} {:>9}",
            bit_rate(rates.rx_bits),
            packet_rate(rates.rx_packets),
            bit_rate(rates.tx_bits),
            packet_rate(rates.tx_packets),
        )
    });
    lines.collect()
}

fn threads(nics: &[(&ShowNic, Option<NicBetween<'_>>)]) -> Vec<String> {
    let threads = nics.iter().flat_map(|(nic, between)| {
        nic.workers.iter().map(move |worker| {
            let (busy, frames) = between
                .as_ref()
                .map_or((0.0, 0.0), |b| b.thread(&worker.name));
            format!(
                "{:<16} busy {:>7} {:>10}   {:>8} wake-ups in all",
                worker.name,
                percent(busy),
                packet_rate(frames),
                count(worker.wakeups),
            )
        })
    });
    threads.collect()
}

fn pad(text: &str, width: usize) -> String {
    format!("{text:<width$}")
}

/// The name of a NIC in seven columns: of a longer one beginning and end, as names of several NICs often begin alike.
fn short(name: &str) -> String {
    let chars: Vec<_> = name.chars().collect();
    match chars.as_slice() {
        [a, b, c, _, .., x, y, z] if chars.len() > 7 => {
            [*a, *b, *c, '~', *x, *y, *z].iter().collect()
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::state::Event;
    use crate::top::state::tests::{busy, press};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    const PLAIN: Theme = Theme { colour: false };

    #[test]
    fn nics_whose_names_begin_alike_are_told_apart() {
        for (name, shown) in [
            ("a", "a"),
            ("seven77", "seven77"),
            ("datacentre-left", "dat~eft"),
            ("datacentre-right", "dat~ght"),
            ("änderung", "änd~ung"),
        ] {
            assert_eq!(short(name), shown);
        }
    }

    fn rendered(top: &Top, width: u16, height: u16, theme: Theme) -> TestBackend {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal
            .draw(|frame| draw(frame, top, "/run/vfnic/ctl.sock", theme))
            .unwrap();
        terminal.backend().clone()
    }

    fn text(top: &Top, width: u16, height: u16) -> Vec<String> {
        let backend = rendered(top, width, height, PLAIN);
        let cells = backend.buffer().content().chunks(width.into());
        let lines = cells.map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect());
        lines
            .map(|line: String| line.trim_end().to_owned())
            .collect()
    }

    #[test]
    fn a_note_that_is_cut_says_so() {
        let mut top = busy();
        top.update(Event::Said("a".repeat(81)));
        let last = text(&top, 80, 24).pop().unwrap();
        assert_eq!(last, format!("{}…", "a".repeat(79)));
        top.update(Event::Said("a".repeat(80)));
        let last = text(&top, 80, 24).pop().unwrap();
        assert_eq!(last, "a".repeat(80));
    }

    #[test]
    fn a_filter_that_hides_all_is_named() {
        let mut top = busy();
        press(&mut top, "a/zzz");
        let screen = text(&top, 80, 24).join("\n");
        assert!(screen.contains("no VF has 'zzz' in its line"), "{screen}");
        assert!(!screen.contains("a shows all"), "{screen}");
    }

    #[test]
    fn the_screen_of_80_columns_and_24_lines() {
        assert_eq!(
            text(&busy(), 80, 24),
            [
                "vfnic top   up 84 s   sorted by VF                          1 VF without a guest",
                "a       10.0 Gb/s  wire rx     0 b/s tx     0 b/s busy 0.0 %  hyp 0.0 %",
                "NIC      VF PATH     GUEST             RX        TX        RX        TX    DROPS",
                "a         0 direct   connected   480 kb/s 24.0 Mb/s 1.00 kpps 2.00 kpps        -",
                "a         1 mediated connected  4.80 Gb/s 2.40 kb/s  400 kpps     5 pps 1.50 k/s",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "drops of a vf 0",
                "none",
                "",
                "",
                "",
                "",
                "",
                KEYS,
            ]
        );
    }

    #[test]
    fn the_pane_tells_of_the_selected_vf_and_of_threads() {
        let mut top = busy();
        press(&mut top, "j");
        let screen = text(&top, 80, 24);
        assert_eq!(screen[16], "drops of a vf 1");
        assert_eq!(
            screen[17],
            "rx  no_rx_buffer               1.50 k/s       1500 in all"
        );
        press(&mut top, "\t\t");
        let screen = text(&top, 80, 24);
        assert_eq!(screen[16], "threads");
        assert!(screen[17].starts_with("worker-a         busy   0.0 %      0 pps"));
    }

    #[test]
    fn any_size_is_drawn_with_the_selected_vf_on_it() {
        let mut one = busy();
        press(&mut one, "ajj");
        let mut many = busy();
        let mut show = many.shown().unwrap().clone();
        for n in 1..30 {
            let mut nic = show.nics[0].clone();
            nic.name = format!("n{n}");
            show.nics.push(nic);
        }
        many.update(Event::Shown(Box::new(show)));
        press(&mut many, &format!("a{}", "j".repeat(3 * 20 + 2)));
        for (top, nic) in [(one, "a"), (many, "n20")] {
            for height in 1..40 {
                for width in [1, 20, 79, 80, 200] {
                    let screen = text(&top, width, height);
                    assert_eq!(screen.len(), usize::from(height));
                }
                let screen = text(&top, 80, height);
                let has = |begin: &str| screen.iter().any(|line| line.starts_with(begin));
                if height >= 5 {
                    assert!(has(&format!("{nic:<7}   2 ")), "{screen:#?}");
                    assert!(has(&format!("{nic:<8}10.0 Gb/s")), "{screen:#?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_told_by_colour_alone_and_without_colours_there_are_none() {
        let mut top = busy();
        press(&mut top, "a");
        let (plain, colour) = (
            rendered(&top, 80, 24, PLAIN),
            rendered(&top, 80, 24, Theme { colour: true }),
        );
        let colours = |backend: &TestBackend| {
            let cells = backend.buffer().content().iter();
            cells
                .filter(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset))
                .count()
        };
        assert_eq!(colours(&plain), 0);
        assert!(colours(&colour) > 0);
        for (a, b) in plain
            .buffer()
            .content()
            .iter()
            .zip(colour.buffer().content())
        {
            assert_eq!(a.symbol(), b.symbol());
        }
    }

    #[test]
    fn what_is_waited_for_and_what_came_of_a_key_is_said() {
        let mut top = busy();
        top.update(Event::Said(
            "vf7: the VFs of this NIC are 0 to 2".to_owned(),
        ));
        assert_eq!(
            text(&top, 80, 24)[23],
            "vf7: the VFs of this NIC are 0 to 2"
        );
        press(&mut top, "/vf 1");
        assert_eq!(text(&top, 80, 24)[23], "/vf 1_");
        press(&mut top, "\n?");
        let help = text(&top, 80, 24);
        assert!(help[1].contains("choose a VF"), "{help:#?}");
        assert!(help[14].starts_with("is what the guest"), "{help:#?}");
        assert_eq!(help[23], "any key goes back");
        press(&mut top, "q");
        top.update(Event::Missing);
        assert_eq!(
            text(&top, 80, 24)[0],
            "waiting for vfnic at /run/vfnic/ctl.sock"
        );
    }
}
