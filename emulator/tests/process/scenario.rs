//! `vfnic scenario`: exit code 0 if all came out, 1 and a line for each promise that was not kept, 2 if nothing has run.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::emulator::vfnic;

const FILE: &str = "\
until = '3ms'
[[nic]]
name = 'a'
vfs = 1
[[nic]]
name = 'b'
vfs = 1
[[wire]]
between = ['a', 'b']
[[guest]]
name = 'left'
nic = 'a'
address = '10.0.0.1/24'
[[guest]]
name = 'right'
nic = 'b'
address = '10.0.0.2/24'
[[job]]
guest = 'left'
at = '0s'
send = { to = 'right', bytes = 20000 }
[[expect]]
exit = 'left'
";

/// A scenario of this text, run or checked in a folder of its own.
fn scenario(dir: &Path, words: &[&str], text: &str) -> Output {
    let file = dir.join("file.toml");
    std::fs::write(&file, text).unwrap();
    let args = [&["scenario"], words, &[file.to_str().unwrap()]].concat();
    vfnic(&args)
}

fn lines(bytes: Vec<u8>) -> Vec<String> {
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_exit_code_says_whether_promises_were_kept() {
    let dir = tempfile::tempdir().unwrap();
    let output = scenario(dir.path(), &["run"], FILE);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let kept = lines(output.stdout);
    assert!(kept.contains(&"PASS  exit code of left: 0 (want 0)".to_owned()));

    let broken = "[[expect]]\ndrops = 'any'\nnic = 'a'\nmin = 1\n[[expect]]\nretransmits = 'left'\nmin = 2\n";
    let output = scenario(dir.path(), &["run"], &format!("{FILE}{broken}"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (report, mut said) = (lines(output.stdout), lines(output.stderr));
    said.retain(|line| !line.starts_with("scenario: ")); // how far it is
    let of = |verdict: &str| report.iter().filter(|l| l.starts_with(verdict)).count();
    assert_eq!((of("PASS"), of("FAIL")), (1, 2), "{report:?}");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].contains("file.toml: line 24: drops of a (any)"),
        "{said:?}"
    );
    assert!(
        said[1].contains("file.toml: line 28: retransmits of left"),
        "{said:?}"
    );
    // The figures before the promises are the same.
    let digest = |report: &[String]| report.last().cloned();
    assert_eq!(digest(&report), digest(&kept));
}

#[test]
fn what_cannot_run_is_refused_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let bad = FILE.replace("to = 'right'", "to = 'nobody'");
    let nowhere = dir.path().to_str().unwrap().to_owned();
    let linux = ["run", "--guests", "linux", "--image", &nowhere];
    for (words, text, says) in [
        (
            &["run"][..],
            &bad[..],
            "file.toml: line 18: to 'nobody': there are left, right",
        ),
        (&["check"], &bad, "file.toml: line 18"),
        (&["run"], "until = ", "file.toml: line 1"),
        (&linux, FILE, "examples/linux-guests/build.sh"),
        (
            &["run", "--image", &nowhere],
            FILE,
            "--image: it is of Linux guests",
        ),
        (&["run", "--snaplen", "64"], FILE, "--snaplen: it is about"),
        (
            &["run", "--report", "/no/such/page.html"],
            FILE,
            "/no/such/page.html: there is no such folder",
        ),
        (
            &["run", "--json", "--report", "-"],
            FILE,
            "one of them is standard output",
        ),
    ] {
        let output = scenario(dir.path(), words, text);
        let said = lines(output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said:?}");
        assert!(said.len() == 1 && said[0].contains(says), "{said:?}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(
        vfnic(&["scenario", "check", "nowhere.toml"]).status.code(),
        Some(2)
    );
    let output = scenario(dir.path(), &["check"], FILE);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let file = dir.path().join("file.toml");
    let file = file.to_str().unwrap();
    let checked = vfnic(&["scenario", "check", file, "path-switch", "no-such", "none"]);
    assert_eq!(checked.status.code(), Some(2));
    assert_eq!(lines(checked.stderr).len(), 2, "a line each");
    let run = vfnic(&["scenario", "run", file, "--json", "j.json"]);
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(said.contains("say --json > j.json"), "{said}");
}

#[test]
fn a_file_may_be_the_standard_stream() {
    let run = |args: &[&str], text: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vfnic"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let report = run(&["scenario", "run", "-"], FILE);
    assert!(report.contains("PASS  exit code of left"), "{report}");
    // Read once, and run with each.
    let compared = run(&["scenario", "run", "-", "--profile", "all"], FILE);
    assert!(
        compared.contains("igb") && compared.contains("ef10"),
        "{compared}"
    );
    // A page there is all that is there.
    let page = run(&["scenario", "run", "-", "--report", "-"], FILE);
    assert!(
        page.starts_with("<!") && page.ends_with("</html>\n"),
        "{page}"
    );
    let new = run(&["scenario", "new", "-"], "");
    assert!(new.contains("[[guest]]"), "{new}");
    assert_eq!(run(&["scenario", "check", "-"], FILE), "");
    let experiment = ["experiment", "--guests", "1x0", "--seconds", "0.01"];
    let json = run(&[&experiment, &["--json", "-"][..]].concat(), "");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["made_by"].is_object(), "{json}");
}

#[test]
fn those_that_come_with_it_have_names_and_are_begun_from() {
    let listed = vfnic(&["scenario", "list"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().count() > 20, "{listed}");
    assert!(
        listed.contains("surprises/03-ipv6-untrusted ") && listed.contains(" IPv6 is dead"),
        "{listed}"
    );
    let check = vfnic(&["scenario", "check", "03-ipv6-untrusted"]);
    assert!(check.status.success(), "{check:?}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    let file = file.to_str().unwrap();
    let new = ["scenario", "new", file, "--from", "link-flap"];
    assert!(vfnic(&new).status.success());
    assert!(vfnic(&["scenario", "check", file]).status.success());
    // What is there is not written over.
    std::fs::write(file, "until = '1s'").unwrap();
    assert_eq!(vfnic(&new).status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "until = '1s'");
    let unknown = vfnic(&["scenario", "run", "no-such"]);
    assert_eq!(unknown.status.code(), Some(2));
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert!(said.contains("'vfnic scenario list'"), "{said}");
}

#[test]
fn an_experiment_of_several_settings_is_a_table_and_a_row_for_each_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (csv, page, json) = (file("s.csv"), file("s.html"), file("s.json"));
    let run = vfnic(&[
        "experiment",
        "--guests",
        "1x0,1x1",
        "--mtu",
        "9000",
        "--repeat",
        "2",
        "--seconds",
        "0.01",
        "--csv",
        &csv,
        "--report",
        &page,
        "--json",
        &json,
    ]);
    assert!(run.status.success(), "{run:?}");
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(
        said.contains("1x0, MTU 9000           2") && said.contains("Made by vfnic"),
        "{said}"
    );
    let rows = std::fs::read_to_string(csv).unwrap();
    let rows: Vec<Vec<&str>> = rows.lines().map(|row| row.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|column| *column == name).unwrap();
    let seeds: Vec<_> = rows[1..].iter().map(|row| row[column("seed")]).collect();
    assert_eq!(
        seeds,
        [
            "2009", "2009", "2010", "2010", "2009", "2009", "2010", "2010"
        ]
    );
    let digests: std::collections::BTreeSet<_> =
        rows[1..].iter().map(|row| row[column("digest")]).collect();
    assert_eq!(digests.len(), 8, "no two of them are the same run");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("1 streams A to B, 0 B to A") && page.ends_with("</html>\n"));
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(json["runs"].as_array().unwrap().len(), 4);
}

#[test]
fn a_page_says_what_came_of_a_scenario_and_marks_its_commands() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    let page = page.to_str().unwrap();
    let text = format!("{FILE}[[event]]\nat = '1ms'\nnic = 'a'\ndo = 'vf 0 set <i>'\n");
    let wrong = scenario(dir.path(), &["run", "--report", page], &text);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let text = text.replace("<i>", "trust on");
    let run = scenario(dir.path(), &["run", "--report", page], &text);
    assert!(run.status.success(), "{run:?}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<h1>The promise was kept</h1>"), "{page}");
    assert!(
        page.contains("<li>1ms, a: <code>vf 0 set trust on</code>"),
        "{page}"
    );
    let marks = page.matches("<line class=\"ceiling\"").count();
    assert!(
        marks > 0 && marks == page.matches("<figure>").count(),
        "{page}"
    );
    assert!(page.ends_with("</html>\n"));
}
