//! `vfnic why`: asks a running NIC about one frame, or about those of a capture. Judges nothing itself.

use std::path::Path;

use serde::Serialize;
use vf_model::HEAD_LEN;
use vfnic::capture::read::{read, read_from};
use vfnic::cli;
use vfnic::control::why::Why;
use vfnic::control::{NicCommand, Request, Response, ask};

use crate::failure::{Failure, failed, unanswered, usage};
use crate::output::print;

/// Frames of a capture, or what is said of one, are asked about one after the other.
pub(crate) fn ask_why(ctl: &Path, nic: Option<String>, args: &cli::Why) -> Result<(), Failure> {
    let Some(file) = &args.pcap else {
        let why = one(ctl, nic, args.words.clone())?;
        return print(&match args.show.json {
            true => json(&why)?,
            false => why.to_string(),
        });
    };
    // Behind `from PORT`: a capture says all else.
    if let Some(word) = args.words.get(2).filter(|word| *word != "gso") {
        return Err(usage(format!(
            "why --pcap: '{word}': the frames are those of the file: say from vfN or from wire only"
        )));
    }
    let frames = match file.as_os_str() == "-" {
        true => read_from(Ok(std::io::stdin()), Path::new("standard input")),
        false => read(file),
    };
    let frames = frames.map_err(usage)?;
    if let Some(n) = args.packet
        && !(1..=frames.len()).contains(&n)
    {
        let (file, packets) = (file.display(), frames.len());
        return Err(usage(format!("{file}: there are {packets} packets in it")));
    }
    let asked = frames.iter().enumerate().map(|(i, frame)| (i + 1, frame));
    for (n, frame) in asked.filter(|(n, _)| args.packet.is_none_or(|packet| packet == *n)) {
        let mut words = args.words.clone();
        let head = frame.bytes.iter().take(HEAD_LEN);
        let hex: String = head.map(|byte| format!("{byte:02x}")).collect();
        words.extend([
            "hex".to_owned(),
            hex,
            "len".to_owned(),
            frame.len.to_string(),
        ]);
        let why = one(ctl, nic.clone(), words)?;
        match args.show.json {
            true => print(&line(&Packet { packet: n, why })?)?,
            false => print(&format!("packet {n}, {} bytes\n{why}", frame.len))?,
        }
    }
    Ok(())
}

fn one(ctl: &Path, nic: Option<String>, words: Vec<String>) -> Result<Why, Failure> {
    match ask(ctl, &Request::Why(NicCommand { nic, words })).map_err(failed)? {
        Response::Why(why) => Ok(why),
        Response::Refused(why) => Err(usage(why)),
        _ => Err(unanswered()),
    }
}

fn json(answer: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(answer).map_err(failed)? + "\n")
}

/// One of several, on a line.
fn line(answer: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(answer).map_err(failed)? + "\n")
}

/// The answer about a frame of a capture.
#[derive(Serialize)]
pub(crate) struct Packet {
    pub(crate) packet: usize,
    #[serde(flatten)]
    pub(crate) why: Why,
}
