//! Metrics as a scraper finds them.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::emulator::{BACK_TO_BACK, Emulator, vfnic, wait_for};
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
    std::thread::sleep(Duration::from_millis(250));
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

/// Who connects again and again takes places, each of them for a while, and not those that are answered just now.
#[test]
fn a_scrape_is_answered_beside_a_flood_of_connections() {
    let scraped = Scraped::start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut flood = VecDeque::new();
            while !done.load(Ordering::Relaxed) {
                flood.push_back(scraped.connect());
                if flood.len() > 32 {
                    flood.pop_front();
                }
            }
        });
        let answers: Vec<_> = (0..5)
            .map(|_| {
                let mut stream = scraped.connect();
                let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
                let mut answer = String::new();
                let read = stream.read_to_string(&mut answer);
                (asked.is_ok() && read.is_ok(), answer)
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        for (whole, answer) in answers {
            assert!(whole && answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    });
}

/// A scraper that comes while one process goes on for another is answered by either.
#[test]
fn scrapers_find_the_socket_throughout_an_upgrade() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics");
    // A port that was free a moment ago.
    let bound = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = bound.local_addr().unwrap();
    drop(bound);
    for (address, tcp) in [
        (format!("unix:{}", path.display()), false),
        (port.to_string(), true),
    ] {
        let mut emulator = Emulator::with_config(&format!("metrics = '{address}'\n{BACK_TO_BACK}"));
        let connect = || match tcp {
            true => TcpStream::connect(port).map(OwnedFd::from),
            false => UnixStream::connect(&path).map(OwnedFd::from),
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let comes = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    connect().unwrap();
                    std::thread::sleep(Duration::from_micros(300));
                }
            });
            for _ in 0..3 {
                emulator.upgrade();
                std::thread::sleep(Duration::from_millis(50));
            }
            done.store(true, Ordering::Relaxed);
            comes.join().unwrap();
        });
        // The process before this one may still take one with it.
        wait_for("an answer", || {
            let mut stream = File::from(connect().unwrap());
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.starts_with("HTTP/1.1 200 ").then_some(())
        });
        emulator.terminate("an upgrade");
        assert!(tcp || !path.exists());
        emulator.restart();
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
