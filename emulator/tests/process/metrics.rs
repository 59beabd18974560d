//! Metrics as a scraper finds them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use tempfile::TempDir;

use crate::emulator::{BACK_TO_BACK, Emulator, vfnic};
use crate::port::{Port, pass};

/// A running `vfnic` that answers scrapes at a socket.
struct Scraped {
    dir: TempDir,
    emulator: Emulator,
}

impl Scraped {
    fn start() -> Scraped {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("metrics");
        let config = format!("metrics = 'unix:{}'\n{BACK_TO_BACK}", socket.display());
        Scraped {
            emulator: Emulator::with_config(&config),
            dir,
        }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("metrics")).unwrap()
    }

    /// What is answered to a scrape that accepts this: head and body.
    fn scrape(&self, accept: &str) -> (String, String) {
        let mut stream = self.connect();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        (head.to_owned(), body.to_owned())
    }
}

/// Reads a page as the formats have it and returns its series: a name and labels, once each.
fn series(page: &str, open: bool) -> BTreeSet<String> {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut families = BTreeSet::new();
    let mut family = ("", "");
    let mut series = BTreeSet::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<_> = comment.splitn(3, ' ').collect();
            match words[..] {
                ["EOF"] => assert!(open && lines.peek().is_none(), "behind the end"),
                ["HELP", of, help] => {
                    assert!(families.insert(of), "{of} twice");
                    assert!(help.ends_with('.') && !help.ends_with(".."), "{line}");
                    family = (of, "");
                }
                ["TYPE", of, kind @ ("counter" | "gauge")] => {
                    assert_eq!(of, family.0, "{line}");
                    family = (of, kind);
                }
                ["UNIT", of, unit] if open => {
                    assert!(of == family.0 && of.ends_with(unit), "{line}")
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (said, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
        let (of, labels) = said.split_once('{').unwrap_or((said, "}"));
        let suffix = if open && family.1 == "counter" {
            "_total"
        } else {
            ""
        };
        assert_eq!(of, format!("{}{suffix}", family.0), "{line}");
        assert_eq!(family.1 == "counter", of.ends_with("_total"), "{line}");
        assert!(of.chars().all(name), "{line}");
        let labels = labels.strip_suffix('}').unwrap();
        for label in labels.split_terminator(',') {
            let (key, value) = label.split_once('=').unwrap();
            assert!(key.chars().all(name), "{line}");
            let value = value
                .strip_prefix('"')
                .and_then(|v| v.strip_suffix('"'))
                .unwrap();
            assert!(!value.contains(['"', '\\']), "{line}");
        }
        assert!(series.insert(said.to_owned()), "{said} twice");
    }
    assert!(open == page.ends_with("# EOF\n"), "{page}");
    series
}

#[test]
fn a_page_is_as_the_formats_have_it() {
    let scraped = Scraped::start();
    let emulator = &scraped.emulator;
    let [mut a, mut b] = ["a-vf0.sock", "a-vf1.sock"].map(|s| Port::open(&emulator.path(s)));
    pass(&mut a, &mut b);
    let (head, prometheus) = scraped.scrape("*/*");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("text/plain; version=0.0.4"),
        "{head}"
    );
    let (head, open) = scraped.scrape("application/openmetrics-text;version=1.0.0,*/*;q=0.1");
    assert!(head.contains("application/openmetrics-text"), "{head}");
    let series = series(&open, true);
    assert_eq!(self::series(&prometheus, false), series);
    let has = |said: &str| assert!(series.contains(said), "{said} is not in {series:#?}");
    has("vfnic_vf_receive_packets_total{nic=\"a\",vf=\"1\",path=\"direct\"}");
    has("vfnic_vf_transmit_bytes_total{nic=\"a\",vf=\"0\",path=\"mediated\"}");
    has("vfnic_port_up{nic=\"b\"}");
    has("vfnic_thread_busy_seconds_total{nic=\"a\",thread=\"worker-a\"}");
    // What show counts.
    let got = emulator.vf(0, 1).direct.rx_packets;
    assert!(got > 0);
    let line =
        format!("vfnic_vf_receive_packets_total{{nic=\"a\",vf=\"1\",path=\"direct\"}} {got}\n");
    assert!(open.contains(&line), "{open}");
    let shown = emulator.vfnic(&["show", "--openmetrics"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(self::series(&shown, true), series);
}

/// Else a trusted guest could make as many as it likes.
#[test]
fn an_address_that_a_driver_chooses_makes_no_new_series() {
    let scraped = Scraped::start();
    let emulator = &scraped.emulator;
    emulator.does("--nic a vf 0 set trust on");
    let (_, before) = scraped.scrape("*/*");
    // What was said a moment ago is said again.
    std::thread::sleep(std::time::Duration::from_millis(250));
    emulator.does("--nic a vf 0 request mac 02:00:00:00:00:99");
    assert_eq!(emulator.vf(0, 0).state.mac, "02:00:00:00:00:99");
    let (_, after) = scraped.scrape("*/*");
    assert_eq!(series(&after, false), series(&before, false));
}

#[test]
fn scrapers_that_do_not_read_cost_themselves_only() {
    let scraped = Scraped::start();
    // They have connected and say nothing, or ask and read nothing.
    let stuck: Vec<_> = (0..6)
        .map(|n| {
            let mut stream = scraped.connect();
            if n % 2 == 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            }
            stream
        })
        .collect();
    for _ in 0..20 {
        let (head, _) = scraped.scrape("*/*");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        scraped.emulator.show();
    }
    drop(stuck);
    // Nor do those who come again whenever they have lost their place.
    let mut stuck: Vec<_> = (0..12).map(|_| scraped.connect()).collect();
    for _ in 0..20 {
        let (head, _) = scraped.scrape("*/*");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        stuck.remove(0);
        stuck.push(scraped.connect());
    }
}

#[test]
fn without_metrics_nothing_listens() {
    let line = vfnic(&["run", "--metrics", "9109"]);
    let line = String::from_utf8(line.stderr).unwrap();
    assert!(line.contains("'9109' is neither ADDRESS:PORT"), "{line}");
    let emulator = Emulator::start(&[]);
    assert!(!emulator.path("metrics").exists());
}
