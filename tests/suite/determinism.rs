//! The same bits whatever the number of threads, and whether a run is interrupted, killed or neither.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cifar10;
use super::program::{EVERY_OPTION, Folder, Said, assert_same_run, epochs};

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let folder = Folder::new();
    cifar10::write(&folder, 40);
    for (conv, set, options) in [
        ("static", "digits", ""),
        ("maconv", "digits", ""),
        ("mdconv", "digits", ""),
        ("mdconv", "cifar10 --data-dir .", ""),
        ("mdconv", "digits", EVERY_OPTION),
    ] {
        let train = |out: &str| {
            let sizes = "--limit 200 --batch-size 48 --epochs 2 --steps 8 --lr 0.05";
            format!("train {set} --conv {conv} {sizes} {options} --out {out}")
        };
        let place = |threads: &str| format!("{conv}-{}-{}-{threads}", &set[..3], options.len());
        folder.run(&format!("--threads 1 {}", train(&place("1"))));
        folder.run(&format!("--threads 3 {}", train(&place("3"))));
        for threads in ["1", "2"] {
            let out = place(&format!("variable-{threads}"));
            let mut command = folder.command(&train(&out));
            command.env("RAYON_NUM_THREADS", threads);
            Said::of(command).ends(0, &out);
            assert_eq!(folder.json(&format!("{out}/run.json"))["threads"].to_string(), threads);
            assert_same_run(&folder, &place("1"), &out);
        }
        assert_eq!(folder.json(&format!("{}/run.json", place("3")))["threads"], 3);
        assert_same_run(&folder, &place("1"), &place("3"));
    }
}

/// So many batches an epoch that a signal comes before it ends.
const LONG: &str = "train --conv mdconv --batch-size 4 --epochs 4";

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_bits() {
    killed_runs_go_on(LONG);
}

#[test]
fn a_run_with_every_option_that_is_killed_goes_on_to_the_same_bits() {
    // The last batch, too, has two images in each of its parts.
    killed_runs_go_on(&format!("train --conv mdconv --batch-size 6 --epochs 4 --lr 0.02 {EVERY_OPTION}"));
}

fn killed_runs_go_on(train: &str) {
    let folder = Folder::new();
    folder.run(&format!("{train} --out whole"));
    let mut words = format!("{train} --out killed");
    for kill in 0..3_u64 {
        let before = std::fs::read(folder.path("killed/checkpoints/last.safetensors")).ok();
        let mut child = start(&folder, &words);
        // In the middle of an epoch: a while after a checkpoint, which is written before the first step and after each epoch.
        wait(&mut child, || {
            let checkpoint = std::fs::read(folder.path("killed/checkpoints/last.safetensors")).ok();
            checkpoint.is_some() && checkpoint != before
        });
        sleep(Duration::from_millis(3 + 17 * kill));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "the run ended before it was killed");
        assert_eq!(folder.json("killed/run.json")["status"], "running");
        assert!(!folder.path("killed/model.safetensors").exists());
        words = "resume killed".to_owned();
    }
    let started = folder.json("killed/run.json")["started"].clone();
    folder.run("resume killed");
    assert_same_run(&folder, "whole", "killed");
    assert_eq!(epochs(&folder, "killed").len(), 4);
    let record = folder.json("killed/run.json");
    assert_eq!((&record["started"], &record["status"]), (&started, &"finished".into()));
    assert_eq!(record["resumed"].as_array().unwrap().len(), 3);
}

#[test]
fn a_run_that_is_interrupted_writes_a_checkpoint_and_goes_on_to_the_same_bits() {
    interrupted_runs_go_on(LONG);
}

#[test]
fn a_run_with_every_option_that_is_interrupted_goes_on_to_the_same_bits() {
    interrupted_runs_go_on(&format!("train --conv mdconv --batch-size 6 --epochs 4 --lr 0.02 {EVERY_OPTION}"));
}

fn interrupted_runs_go_on(train: &str) {
    let folder = Folder::new();
    folder.run(&format!("{train} --out whole"));
    let (mut words, mut interrupts, mut within) = (format!("{train} --out stopped"), 0, 0);
    // Until two have come between two batches of an epoch, and not between two epochs.
    while within < 2 {
        assert!(interrupts < 10, "no signal came within an epoch");
        let before = std::fs::read(folder.path("stopped/run.json")).ok();
        let mut child = start(&folder, &words);
        // The record says `running` before the first step; a handler is there when the first checkpoint is.
        wait(&mut child, || {
            std::fs::read(folder.path("stopped/run.json")).ok() != before
                && folder.path("stopped/checkpoints/last.safetensors").exists()
        });
        sleep(Duration::from_millis(60));
        signal(&child, "INT");
        let said = output(child);
        let said = said.ends(130, &words);
        said.explains(&["interrupted", "`gatefold resume stopped`"]);
        assert!(!said.out.contains("EQUAL") && !folder.path("stopped/model.safetensors").exists(), "{}", said.out);
        assert_eq!(folder.json("stopped/run.json")["status"], "interrupted");
        interrupts += 1;
        within += usize::from(progress(&folder, "stopped")["batch"] != 0);
        words = "resume stopped".to_owned();
    }
    folder.run("resume stopped");
    assert_same_run(&folder, "whole", "stopped");
    assert_eq!(folder.json("stopped/run.json")["resumed"].as_array().unwrap().len(), interrupts);
}

fn start(folder: &Folder, words: &str) -> Child {
    folder.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn output(child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Waits until `reached`, while the child runs.
fn wait(child: &mut Child, reached: impl Fn() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        assert!(started.elapsed() < Duration::from_secs(60), "nothing happened for a minute");
        sleep(Duration::from_millis(1));
    }
}

/// `kill` of the shell, which every system with signals has.
fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// How far a run's last checkpoint has come.
fn progress(folder: &Folder, run: &str) -> Value {
    let bytes = folder.read(&format!("{run}/checkpoints/last.safetensors"));
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!(metadata.keys().collect::<Vec<_>>(), ["gatefold"]);
    let json: Value = serde_json::from_str(&metadata["gatefold"]).unwrap();
    json["progress"].clone()
}
