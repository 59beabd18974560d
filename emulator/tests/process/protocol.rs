//! The protocol of the control socket as a client of any version finds it, on either clock.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};
use vfnic::control::PROTOCOL;

use crate::control::client;
use crate::emulator::{Emulator, vfnic};

/// What is answered to each of these lines, asked on one connection.
fn answers(emulator: &Emulator, lines: &[String]) -> Vec<Value> {
    let mut stream = client(emulator);
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut answer = |line: &String| {
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    };
    lines.iter().map(&mut answer).collect()
}

fn refusal(answer: &Value) -> &str {
    answer["refused"].as_str().unwrap()
}

#[test]
fn a_client_learns_the_version_or_why_it_cannot_go_on() {
    let emulator = Emulator::start(&[]);
    let ask = |request: Value| answers(&emulator, &[request.to_string()]).remove(0);
    for hello in [json!({}), json!({ "protocol": PROTOCOL })] {
        let answer = ask(json!({ "hello": hello }));
        assert_eq!(answer["hello"]["protocol"], PROTOCOL, "{answer}");
        assert_eq!(answer["hello"]["program"], env!("CARGO_PKG_VERSION"));
    }
    for other in [0, PROTOCOL + 1] {
        let answer = ask(json!({ "hello": { "protocol": other } }));
        let why = refusal(&answer);
        let says = format!(
            "speaks version {PROTOCOL} of the control protocol, and its client version {other}"
        );
        assert!(why.contains(&says) && !why.contains('\n'), "{why}");
    }
    // A key that says nothing here was meant to say something.
    for (request, key) in [
        (
            json!({"capture": {"words": ["vf", "0"], "drop": true}}),
            "`drop`",
        ),
        (json!({"monitor": {"drop": true}}), "`drop`"),
        (
            json!({"command": {"words": ["link", "set", "up"], "dev": "a"}}),
            "`dev`",
        ),
    ] {
        let answer = ask(request);
        assert!(refusal(&answer).contains(key), "{answer}");
    }
    let unknown = ask(json!({ "numvfs": 4 }));
    let why = refusal(&unknown);
    assert!(why.contains("'numvfs'"), "{why}");
    assert!(
        why.ends_with(
            "(requests are hello, show, filters, filter_table, save, why, capture, check_paths, monitor, command, attach_tap, detach_tap, hand_over or batch)"
        ),
        "{why}"
    );
}

#[test]
fn the_tool_says_in_a_line_that_the_other_side_is_of_another_version() {
    let dir = tempfile::tempdir().unwrap();
    for (answer, says) in [
        (
            r#"{"refused":"it is vfnic 9.0, which speaks version 9"}"#,
            "is of another version: it is vfnic 9.0",
        ),
        (
            r#"{"refused":"not a request: unknown variant `hello`"}"#,
            "is of another version: not a request",
        ),
        (
            r#"{"hello":{"protocol":9,"program":"9.0"}}"#,
            "9.0 speaks version 9 of the control protocol",
        ),
        (r#"{"welcome":9}"#, "answers in another version's words"),
        ("", "it has closed the connection"),
    ] {
        let socket = dir.path().join("ctl.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let serve = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            BufReader::new(&stream)
                .read_line(&mut String::new())
                .unwrap();
            if !answer.is_empty() {
                stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
        });
        let output = vfnic(&[
            "--ctl",
            socket.to_str().unwrap(),
            "vf",
            "0",
            "set",
            "trust",
            "on",
        ]);
        serve.join().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(line.contains(says) && line.lines().count() == 1, "{line}");
        std::fs::remove_file(&socket).unwrap();
    }
}

/// What the clock has a say in: times, threads, queue pairs, and where the folder of this test is.
#[cfg(feature = "lab")]
fn without_the_clock(mut answer: Value) -> Value {
    let Some(show) = answer.get_mut("show").and_then(Value::as_object_mut) else {
        return answer;
    };
    show.retain(|key, _| key == "nics");
    for nic in show["nics"].as_array_mut().unwrap() {
        nic.as_object_mut()
            .unwrap()
            .retain(|key, _| !["worker", "hypervisor", "workers"].contains(&key.as_str()));
        for vf in nic["vfs"].as_array_mut().unwrap() {
            for key in ["socket", "queue_pairs"] {
                assert!(vf.as_object_mut().unwrap().remove(key).is_some());
            }
        }
    }
    answer
}

#[cfg(feature = "lab")]
#[test]
fn both_clocks_give_the_same_answers() {
    let filter = "filter add flow-type ether proto 0x88b5 vf 1";
    let command = |nic: &str, words: &str| json!({ "nic": nic, "words": words.split(' ').collect::<Vec<_>>() });
    let mut lines: Vec<String> = vec![
        "\"show\"".into(),
        "what".into(),
        "{}".into(),
        "[]".into(),
        "\"\"".into(),
    ];
    lines.extend(
        [
            json!({ "hello": {} }),
            json!({ "hello": { "protocol": 99 } }),
            json!({ "filters": { "nic": null } }),
            json!({ "filters": { "nic": "c" } }),
            json!({ "command": command("a", filter) }),
            json!({ "command": command("a", "vf 0 set path mediated vlan 7") }),
            json!({ "command": command("a", "vf 2 set path direct") }),
            json!({ "command": command("b", "vf 0 fly") }),
            json!({ "command": { "words": ["link", "set", "down"] } }),
            json!({ "batch": { "commands": [] } }),
            json!({ "batch": { "commands": [command("a", "vf 1 set trust on"), command("b", filter), command("b", "link set down")] } }),
            json!({ "batch": { "commands": [command("a", "filter flush"), command("b", "vf 9 set trust on"), command("b", "fly")] } }),
            json!({ "batch": { "commands": [command("a", "filter flush"), command("a", "fly"), command("b", "vf 9 set trust on")] } }),
            json!({ "filters": { "nic": "a" } }),
            json!({ "filters": { "nic": "b" } }),
            json!("show"),
        ]
        .map(|request| request.to_string()),
    );
    // Addresses that nobody has chosen are a machine's own on one of the clocks.
    let text = crate::emulator::BACK_TO_BACK;
    let text = ["a", "b"].into_iter().fold(text.to_owned(), |text, nic| {
        let name = format!("name = '{nic}'\n");
        text.replace(
            &name,
            &format!("{name}mac_base = '02:00:00:00:0{nic}:00'\n"),
        )
    });
    let on_each = [
        Emulator::with_config(&text),
        Emulator::on_virtual_clock(&text),
    ]
    .map(|emulator| {
        answers(&emulator, &lines)
            .into_iter()
            .map(without_the_clock)
            .collect::<Vec<_>>()
    });
    for ((line, wall), simulated) in lines.iter().zip(&on_each[0]).zip(&on_each[1]) {
        assert_eq!(wall, simulated, "{line}");
    }
    let done = |at: usize| &on_each[0][on_each[0].len() - at];
    assert_eq!(
        done(6),
        &json!({ "done": [] }),
        "the first batch is in force"
    );
    for (at, index) in [(5, 1), (4, 1)] {
        assert_eq!(done(at)["refused_at"]["at"], index, "{}", done(at));
    }
    assert_eq!(
        done(3)["filters"].as_array().unwrap().len(),
        1,
        "nothing is flushed"
    );
    assert_eq!(
        done(1)["show"]["nics"][0]["vfs"][1]["settings"]["trust"],
        "on"
    );
    assert_eq!(done(1)["show"]["nics"][1]["link"]["up"], false);
}
