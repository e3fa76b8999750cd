//! `data`: which sets there are, fetching them, and whether their files are right.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gatefold_data::Kind;
use gatefold_data::catalogue::{self, Got, Progress, Proof, State};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::place;

/// Options of `data`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// The folder that contains the sets [default: GATEFOLD_DATA, else the user's data directory]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// What to do.
#[derive(clap::Subcommand)]
enum Action {
    /// All sets: what they are, their terms, and whether they are here
    List {
        /// Print JSON Lines, one object a set
        #[arg(long)]
        json: bool,
    },
    /// Fetch a set from where it is published; a download that broke off goes on
    Get {
        /// The set, for example cifar10
        name: String,
        /// Also the files that the set is whole without: svhn's extra images
        #[arg(long)]
        extra: bool,
    },
    /// Compare the size and the SHA-256 of every file of a set with the official ones; decode every image file of your own
    Verify {
        /// The set, for example cifar10
        name: String,
    },
}

/// Lists, fetches or verifies.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let data_dir = place::data_dir(args.data_dir.as_deref());
    match &args.action {
        Action::List { json } => list(&data_dir, *json),
        Action::Get { name, extra } => get(name.parse()?, &data_dir, *extra),
        Action::Verify { name } => verify(name.parse()?, &data_dir),
    }
}

fn list(data_dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for entry in catalogue::list(data_dir) {
        let (state, folder) = match &entry.state {
            State::Embedded => ("embedded", None),
            State::Present(folder) => ("present", Some(folder)),
            State::Incomplete(folder, _) => ("incomplete", Some(folder)),
            State::Absent(folder) => ("absent", Some(folder)),
        };
        let wrong: &[&str] = if let State::Incomplete(_, files) = &entry.state { files } else { &[] };
        if json {
            let object = json!({
                "name": entry.kind.name(),
                "about": entry.about,
                "terms": entry.terms,
                "home": entry.home,
                "bytes": (entry.bytes > 0).then_some(entry.bytes),
                "by_hand": entry.by_hand,
                "state": state,
                "folder": folder.map(|folder| folder.display().to_string()),
                "missing_or_wrong": wrong,
            });
            writeln!(out, "{object}")?;
            continue;
        }
        match entry.bytes {
            0 => writeln!(out, "{} ({state})", entry.kind)?,
            bytes => writeln!(out, "{} ({state}, {:.1} MB)", entry.kind, bytes as f64 / 1e6)?,
        }
        writeln!(out, "  {}", entry.about)?;
        writeln!(out, "  terms: {}", entry.terms)?;
        writeln!(out, "  home: {}", entry.home)?;
        if let Some(folder) = folder {
            writeln!(out, "  folder: {}", folder.display())?;
        }
        if !wrong.is_empty() {
            writeln!(out, "  missing or of another size: {}", wrong.join(", "))?;
        }
        if matches!(state, "incomplete" | "absent") {
            match entry.by_hand {
                Some(how) => writeln!(out, "  {how}")?,
                None => writeln!(out, "  get it: gatefold data get {} --data-dir {}", entry.kind, data_dir.display())?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn get(kind: Kind, data_dir: &Path, extra: bool) -> anyhow::Result<ExitCode> {
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta_precise}");
        ProgressBar::new(0).with_style(style.expect("the template is valid"))
    });
    let say = |line: String| match &bar {
        Some(bar) => bar.println(line),
        None => eprintln!("{line}"),
    };
    let got = catalogue::get(kind, data_dir, extra, &mut |progress| match progress {
        Progress::Archive(path) => say(format!("trying {}", path.display())),
        Progress::Source { url, have: 0 } => say(format!("asking {url}")),
        Progress::Source { url, have } => say(format!("asking {url}, {have} bytes are here")),
        Progress::Bytes { done, total } => {
            if let Some(bar) = &bar {
                bar.set_length(total);
                bar.set_position(done);
            }
        }
        Progress::Unpacking => say("unpacking and checking".to_owned()),
        Progress::Failed { from, why } => say(format!("{from}: {why}")),
        _ => {}
    });
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let mut out = std::io::stdout().lock();
    match got? {
        Got::Embedded => writeln!(out, "{kind} is part of the program: there is nothing to fetch")?,
        Got::Present(folder) => writeln!(out, "{kind} is in {}, whole and right", folder.display())?,
        Got::Fetched { folder, from, moved } => {
            writeln!(out, "{kind} is in {}, from {}", folder.display(), from.join(", "))?;
            for moved in moved {
                writeln!(out, "what lay there before is in {}", moved.display())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line a file; the answer is no if one is missing or wrong.
fn verify(kind: Kind, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let verdicts = catalogue::verify(kind, data_dir);
    let count = verdicts.len();
    let (mut wrong, mut official) = (0, 0);
    for (path, verdict) in verdicts {
        match verdict {
            Ok(proof) => {
                official += usize::from(proof == Proof::Published);
                writeln!(out, "ok    {}{}", path.display(), why(proof))?;
            }
            Err(error) => {
                wrong += 1;
                writeln!(out, "WRONG {error}")?;
            }
        }
    }
    match wrong {
        0 if official == count => writeln!(out, "{kind}: all {count} files are the official ones")?,
        0 => writeln!(out, "{kind}: nothing is wrong")?,
        _ => writeln!(out, "{kind}: {wrong} of {count} are missing or wrong")?,
    }
    Ok(ExitCode::from(u8::from(wrong > 0)))
}

/// What speaks for a file, where it is not the published checksum.
fn why(proof: Proof) -> &'static str {
    match proof {
        Proof::Published => "",
        Proof::Kept => " (as it was when its archive was unpacked; no checksum of it is published)",
        Proof::Unknown => " (no checksum of it is published or kept)",
        Proof::Readable => " (every file of it can be read)",
    }
}
