//! What `vfnic top` knows and what its user has chosen, and how both change. Draws nothing, asks nobody, and reads no clock.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use vfnic::control::show::{Show, ShowNic, ShowVf};

use crate::rates::{Between, NicBetween, Rates};
use crate::show::never_had_a_guest;

/// See the module.
#[derive(Default)]
pub(crate) struct Top {
    /// The NIC that is looked at; all of them if none is said.
    pub(crate) only: Option<String>,
    /// The reading before the last.
    before: Option<Show>,
    /// The last reading; none while nobody answers.
    now: Option<Show>,
    pub(crate) sort: Sort,
    pub(crate) pane: Pane,
    pub(crate) mode: Mode,
    /// Only VFs whose line has this in it are shown.
    pub(crate) filter: String,
    /// Whether VFs are shown that never had a guest.
    pub(crate) all: bool,
    /// The VF that keys are about, if it is there.
    selected: Option<Port>,
    /// VFs that are captured.
    pub(crate) captured: BTreeSet<Port>,
    /// What came of the last key.
    pub(crate) note: String,
}

/// A VF of a NIC.
pub(crate) type Port = (String, u16);

/// What rows are in the order of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    /// NIC and number.
    #[default]
    Vf,
    /// Bits received.
    Rx,
    /// Bits sent.
    Tx,
    /// Frames both ways.
    Packets,
    /// Frames dropped.
    Drops,
}

impl Sort {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Sort::Vf => "VF",
            Sort::Rx => "rx",
            Sort::Tx => "tx",
            Sort::Packets => "packets",
            Sort::Drops => "drops",
        }
    }

    fn next(self) -> Sort {
        match self {
            Sort::Vf => Sort::Rx,
            Sort::Rx => Sort::Tx,
            Sort::Tx => Sort::Packets,
            Sort::Packets => Sort::Drops,
            Sort::Drops => Sort::Vf,
        }
    }
}

/// What is below the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pane {
    /// What the selected VF's frames were dropped for.
    #[default]
    Drops,
    /// What passes its queue pairs.
    Queues,
    /// What threads do.
    Threads,
}

impl Pane {
    fn next(self) -> Pane {
        match self {
            Pane::Drops => Pane::Queues,
            Pane::Queues => Pane::Threads,
            Pane::Threads => Pane::Drops,
        }
    }
}

/// What keys mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Commands.
    #[default]
    Table,
    /// Letters of the filter.
    Filter,
    /// Any key ends the help.
    Help,
}

/// What happens to it.
pub(crate) enum Event {
    /// A reading.
    Shown(Box<Show>),
    /// Nobody answers.
    Missing,
    /// A key was pressed.
    Key(KeyEvent),
    /// What came of a command.
    Said(String),
    /// A capture has begun.
    CaptureBegun(Port, String),
    /// A capture has ended.
    CaptureEnded(Port, String),
}

/// What is to be done about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Quit,
    /// The words of a command for a NIC.
    Command(String, Vec<String>),
    Capture(Port),
    EndCapture(Port),
}

/// A VF's line.
pub(crate) struct Row<'a> {
    pub(crate) nic: &'a str,
    pub(crate) vf: &'a ShowVf,
    /// None before there are two readings of the same run.
    pub(crate) rates: Option<Rates>,
}

impl Row<'_> {
    fn port(&self) -> Port {
        (self.nic.to_owned(), self.vf.vf)
    }

    /// What a filter looks at.
    fn text(&self) -> String {
        let Row { nic, vf, .. } = self;
        let guest = guest(vf);
        format!("{nic} vf {} {} {guest} {}", vf.vf, vf.path, vf.state.mac)
    }
}

/// How a VF's guest is.
pub(crate) fn guest(vf: &ShowVf) -> &'static str {
    match (&*vf.state.link, vf.connected) {
        ("down", _) => "link down",
        (_, true) => "connected",
        (_, false) => "waiting",
    }
}

impl Top {
    /// Looks at this NIC, or at all of them.
    pub(crate) fn new(only: Option<String>) -> Top {
        Top {
            only,
            ..Top::default()
        }
    }

    /// The last reading.
    pub(crate) fn shown(&self) -> Option<&Show> {
        self.now.as_ref()
    }

    /// The last reading's NICs that are looked at, and rates if there are any.
    pub(crate) fn nics(&self) -> Vec<(&ShowNic, Option<NicBetween<'_>>)> {
        let Some(now) = &self.now else {
            return Vec::new();
        };
        let between = self.before.as_ref();
        let between = between.and_then(|before| Between::new(before, now));
        let nics = now.nics.iter().filter(|nic| {
            let only = self.only.as_ref();
            only.is_none_or(|only| *only == nic.name)
        });
        nics.map(|nic| {
            let rates = between.and_then(|b| b.nics().find(|n| n.after.name == nic.name));
            (nic, rates)
        })
        .collect()
    }

    /// The VFs that are shown, in their order.
    pub(crate) fn rows(&self) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for (nic, between) in self.nics() {
            let rates: Option<Vec<_>> = between.map(|nic| nic.vfs().map(|(_, r)| r).collect());
            for (i, vf) in nic.vfs.iter().enumerate() {
                let row = Row {
                    nic: &nic.name,
                    vf,
                    rates: rates.as_ref().and_then(|rates| rates.get(i).cloned()),
                };
                let used = self.all || !never_had_a_guest(vf);
                if used && row.text().contains(&self.filter) {
                    rows.push(row);
                }
            }
        }
        let by = |of: fn(&Rates) -> f64| {
            // Rates are no NaN, and as whole numbers as different as they look.
            move |row: &Row<'_>| Reverse(row.rates.as_ref().map_or(0, |rates| of(rates) as u64))
        };
        // What is equal stays in the order of NICs and VFs.
        match self.sort {
            Sort::Vf => {}
            Sort::Rx => rows.sort_by_key(by(|r| r.rx_bits)),
            Sort::Tx => rows.sort_by_key(by(|r| r.tx_bits)),
            Sort::Packets => rows.sort_by_key(by(|r| r.rx_packets + r.tx_packets)),
            Sort::Drops => rows.sort_by_key(by(Rates::dropped)),
        }
        rows
    }

    /// How many VFs are not shown because they never had a guest.
    pub(crate) fn unused(&self) -> usize {
        let nics = self.nics();
        let vfs = nics.iter().flat_map(|(nic, _)| &nic.vfs);
        match self.all {
            true => 0,
            false => vfs.filter(|vf| never_had_a_guest(vf)).count(),
        }
    }

    /// The place of the selected row; the first is, if the chosen one is not there.
    pub(crate) fn selected(&self, rows: &[Row<'_>]) -> usize {
        let selected = self.selected.as_ref();
        let place = |port: &Port| rows.iter().position(|row| row.port() == *port);
        selected.and_then(place).unwrap_or(0)
    }

    /// Takes in what happens and says what is to be done.
    pub(crate) fn update(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::Shown(show) => self.before = self.now.replace(*show),
            Event::Missing => (self.before, self.now) = (None, None),
            Event::Said(note) => self.note = note,
            Event::CaptureBegun(port, note) => {
                self.captured.insert(port);
                self.note = note;
            }
            Event::CaptureEnded(port, note) => {
                self.captured.remove(&port);
                self.note = note;
            }
            Event::Key(key) if is_interrupt(key) => return Some(Action::Quit),
            Event::Key(_) if self.mode == Mode::Help => self.mode = Mode::Table,
            Event::Key(key) => {
                let key = meant(key)?;
                self.note.clear();
                match self.mode {
                    Mode::Filter => self.edit(key),
                    Mode::Table | Mode::Help => return self.command(key),
                }
            }
        }
        None
    }

    fn command(&mut self, key: KeyCode) -> Option<Action> {
        match key {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('a') => self.all = !self.all,
            KeyCode::Tab => self.pane = self.pane.next(),
            KeyCode::Up | KeyCode::Char('k') => self.select(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(|at, _| at + 1),
            KeyCode::PageUp => self.select(|at, _| at.saturating_sub(10)),
            KeyCode::PageDown => self.select(|at, _| at + 10),
            KeyCode::Home => self.select(|_, _| 0),
            KeyCode::End => self.select(|_, last| last),
            KeyCode::Char('p') => {
                return self.set("path", |vf| match &*vf.path {
                    "direct" => "mediated",
                    _ => "direct",
                });
            }
            KeyCode::Char('P') => return self.set("path", |_| "auto"),
            KeyCode::Char('e') => {
                return self.set("state", |vf| {
                    match vf.settings.get("state").map(String::as_str) {
                        Some("auto") => "enable",
                        Some("enable") => "disable",
                        _ => "auto",
                    }
                });
            }
            KeyCode::Char('c') => {
                let rows = self.rows();
                let port = rows.get(self.selected(&rows))?.port();
                return Some(match self.captured.contains(&port) {
                    true => Action::EndCapture(port),
                    false => Action::Capture(port),
                });
            }
            _ => {}
        }
        None
    }

    fn edit(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.mode = Mode::Table,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Table;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
    }

    /// Selects another row: from the place of one and that of the last, the place of the other.
    fn select(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let rows = self.rows();
        let last = rows.len().saturating_sub(1);
        let at = to(self.selected(&rows), last).min(last);
        self.selected = rows.get(at).map(Row::port);
    }

    /// Sets the selected VF's key to the value that follows the one that it has.
    fn set(&self, key: &str, value: impl FnOnce(&ShowVf) -> &'static str) -> Option<Action> {
        let rows = self.rows();
        let row = rows.get(self.selected(&rows))?;
        let words = format!("vf {} set {key} {}", row.vf.vf, value(row.vf));
        let words = words.split(' ').map(str::to_owned).collect();
        Some(Action::Command(row.nic.to_owned(), words))
    }
}

/// Ctrl-C, which is a key where the terminal leaves everything to the program.
fn is_interrupt(key: KeyEvent) -> bool {
    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL)
}

/// What a key says. With Control or Alt a letter is none: those that move in other programs (less, readline) move here, and no other says anything.
fn meant(key: KeyEvent) -> Option<KeyCode> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let held = control || key.modifiers.contains(KeyModifiers::ALT);
    match key.code {
        // What Backspace sends on many terminals.
        KeyCode::Char('h') if control => Some(KeyCode::Backspace),
        KeyCode::Char('p') if control => Some(KeyCode::Up),
        KeyCode::Char('n') if control => Some(KeyCode::Down),
        KeyCode::Char(_) if held => None,
        code => Some(code),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::show::sample::{counters, show};

    /// Two readings, a second apart, of three VFs of which the first two have guests and the second is busier.
    pub(crate) fn busy() -> Top {
        let mut first = show(3);
        for vf in &mut first.nics[0].vfs[..2] {
            (vf.sessions, vf.connected) = (1, true);
            vf.settings.insert("state".to_owned(), "auto".to_owned());
        }
        let mut second = first.clone();
        second.uptime_s += 1.0;
        let nic = &mut second.nics[0];
        nic.vfs[0].total = counters(1000, 60_000, 2000, 3_000_000);
        nic.vfs[1].total = counters(400_000, 600_000_000, 5, 300);
        nic.vfs[1]
            .total
            .rx_drops
            .insert("no_rx_buffer".to_owned(), 1500);
        nic.vfs[1].path = "mediated".to_owned();
        let mut top = Top::default();
        top.update(Event::Shown(Box::new(first)));
        top.update(Event::Shown(Box::new(second)));
        top
    }

    pub(crate) fn press(top: &mut Top, keys: &str) -> Option<Action> {
        let mut action = None;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                key => KeyCode::Char(key),
            };
            action = top.update(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
        }
        action
    }

    fn vfs(top: &Top) -> Vec<u16> {
        top.rows().iter().map(|row| row.vf.vf).collect()
    }

    #[test]
    fn rows_are_the_vfs_with_guests_in_the_chosen_order_and_as_the_filter_says() {
        let mut top = busy();
        assert_eq!((vfs(&top), top.unused()), (vec![0, 1], 1));
        press(&mut top, "s");
        assert_eq!((top.sort, vfs(&top)), (Sort::Rx, vec![1, 0]));
        press(&mut top, "s");
        assert_eq!((top.sort, vfs(&top)), (Sort::Tx, vec![0, 1]));
        press(&mut top, "ssa");
        assert_eq!((top.sort, vfs(&top)), (Sort::Drops, vec![1, 0, 2]));
        press(&mut top, "/medq\x08");
        // A letter that is a command elsewhere.
        assert_eq!((&*top.filter, vfs(&top)), ("med", vec![1]));
        press(&mut top, "\ns");
        assert_eq!((top.sort, vfs(&top)), (Sort::Vf, vec![1]));
        press(&mut top, "\x1b");
        assert_eq!(vfs(&top), [0, 1, 2]);
    }

    #[test]
    fn letters_with_control_or_alt_change_nothing() {
        let mut top = busy();
        let held = |top: &mut Top, letter, modifiers| {
            top.update(Event::Key(KeyEvent::new(KeyCode::Char(letter), modifiers)))
        };
        for letter in ['p', 'P', 'e', 'q', 'c', 's', 'a', 'h', '/'] {
            assert_eq!(held(&mut top, letter, KeyModifiers::ALT), None, "{letter}");
        }
        for letter in ['p', 'e', 'n', 'q', 's', 'a', 'h', '/'] {
            let action = held(&mut top, letter, KeyModifiers::CONTROL);
            assert_eq!(action, None, "{letter}");
        }
        assert_eq!(
            (top.sort, top.mode, top.all),
            (Sort::Vf, Mode::Table, false)
        );
        // Up and down, as everywhere.
        held(&mut top, 'n', KeyModifiers::CONTROL);
        assert_eq!(top.selected(&top.rows()), 1);
        held(&mut top, 'p', KeyModifiers::CONTROL);
        assert_eq!(top.selected(&top.rows()), 0);
        press(&mut top, "/vfx");
        held(&mut top, 'h', KeyModifiers::CONTROL);
        held(&mut top, 'u', KeyModifiers::CONTROL);
        assert_eq!(top.filter, "vf");
        let quit = held(&mut top, 'c', KeyModifiers::CONTROL);
        assert_eq!(quit, Some(Action::Quit));
    }

    #[test]
    fn keys_are_about_the_selected_vf_wherever_it_has_moved() {
        let mut top = busy();
        let command = |words: &str| {
            let words = words.split(' ').map(str::to_owned).collect();
            Some(Action::Command("a".to_owned(), words))
        };
        assert_eq!(press(&mut top, "p"), command("vf 0 set path mediated"));
        assert_eq!(press(&mut top, "jp"), command("vf 1 set path direct"));
        // It is first now.
        assert_eq!(press(&mut top, "se"), command("vf 1 set state enable"));
        assert_eq!(press(&mut top, "kP"), command("vf 1 set path auto"));
        assert_eq!(
            press(&mut top, "jjjjc"),
            Some(Action::Capture(("a".to_owned(), 0)))
        );
        let port = ("a".to_owned(), 0);
        top.update(Event::CaptureBegun(port.clone(), "into x".to_owned()));
        assert_eq!(
            (press(&mut top, "c"), &*top.note),
            (Some(Action::EndCapture(port)), "")
        );
        assert_eq!(press(&mut top, "q"), Some(Action::Quit));
        // In the help every key but Ctrl-C ends the help.
        assert_eq!(press(&mut top, "?q"), None);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut top, "/");
        assert_eq!(top.update(Event::Key(interrupt)), Some(Action::Quit));
    }

    #[test]
    fn without_a_vfnic_there_is_nothing_to_do_and_after_a_restart_rates_begin_anew() {
        let mut top = busy();
        top.update(Event::Missing);
        assert!(top.shown().is_none() && top.rows().is_empty());
        assert_eq!(press(&mut top, "jpec"), None);
        let mut show = show(1);
        show.nics[0].vfs[0].sessions = 1;
        show.uptime_s = 0.5;
        top.update(Event::Shown(Box::new(show.clone())));
        assert!(top.rows()[0].rates.is_none());
        show.uptime_s = 0.1;
        top.update(Event::Shown(Box::new(show.clone())));
        assert!(
            top.rows()[0].rates.is_none(),
            "restarted between two readings"
        );
        show.uptime_s = 1.1;
        top.update(Event::Shown(Box::new(show)));
        assert_eq!(top.rows()[0].rates, Some(Rates::default()));
    }

    #[test]
    fn one_nic_is_looked_at_if_it_is_named() {
        let mut both = show(1);
        both.nics.push(both.nics[0].clone());
        both.nics[1].name = "b".to_owned();
        let mut top = Top::new(Some("b".to_owned()));
        top.all = true;
        top.update(Event::Shown(Box::new(both)));
        let nics: Vec<_> = top.rows().iter().map(|row| row.nic.to_owned()).collect();
        assert_eq!(nics, ["b"]);
    }
}
