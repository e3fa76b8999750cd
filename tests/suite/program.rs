//! The program itself, run in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A folder in which the program runs. Nothing outside is read or written.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), contents).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The program with `words`, separated by spaces, as its arguments.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatefold"));
        command.args(words.split_whitespace());
        self.inside(command)
    }

    /// A command in the folder, with nothing in its environment that the program listens to.
    pub fn inside(&self, mut command: Command) -> Command {
        command.current_dir(self.0.path()).env("HOME", self.0.path());
        for variable in ["GATEFOLD_DATA", "RAYON_NUM_THREADS", "XDG_DATA_HOME"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs the program to a good end.
    pub fn run(&self, words: &str) -> Said {
        Said::of(self.command(words)).ends(0, words)
    }

    /// Runs the program, which has to end with `status` and to say each of `parts` on stderr, and a remedy.
    pub fn fails(&self, words: &str, status: i32, parts: &[&str]) -> Said {
        let said = Said::of(self.command(words)).ends(status, words);
        said.explains(parts);
        said
    }
}

/// What a run of the program said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// None if a signal ended it.
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { status: status.code(), out: text(stdout), err: text(stderr) }
    }

    /// Fails unless it ended so, without a panic.
    pub fn ends(self, status: i32, what: &str) -> Self {
        assert_eq!(self.status, Some(status), "`{what}`:\n{}{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "`{what}`:\n{}", self.err);
        self
    }

    /// Fails unless stderr has one error with each of `parts`, and says what to do: in a line of its own, or as a command in
    /// the error.
    pub fn explains(&self, parts: &[&str]) {
        let err = &self.err;
        assert_eq!(err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{err}");
        for part in parts {
            assert!(err.contains(part), "`{part}` is missing in:\n{err}");
        }
        assert!(err.contains("\nremedy: ") || err.contains("`gatefold "), "no remedy in:\n{err}");
    }
}

/// The configuration that a run has resolved.
pub fn config(folder: &Folder, run: &str) -> toml::Table {
    String::from_utf8(folder.read(&format!("{run}/config.toml"))).unwrap().parse().unwrap()
}

/// The epochs of a run by its `metrics.csv`, without what depends on the clock.
pub fn epochs(folder: &Folder, run: &str) -> Vec<Vec<String>> {
    let text = String::from_utf8(folder.read(&format!("{run}/metrics.csv"))).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    let timeless = |column: &usize| !["images_per_second", "seconds"].contains(&rows[0][*column]);
    let columns: Vec<usize> = (0..rows[0].len()).filter(timeless).collect();
    assert_eq!(columns.len(), rows[0].len() - 2, "{:?}", rows[0]);
    rows[1..].iter().map(|row| columns.iter().map(|&column| row[column].to_owned()).collect()).collect()
}

/// Every file of a run that depends neither on the clock nor on the machine.
pub const SAME_BITS: [&str; 4] =
    ["checkpoints/last.safetensors", "checkpoints/best.safetensors", "model.safetensors", "folded/model.safetensors"];

/// Fails unless the runs `a` and `b` have the same bits and the same epochs.
pub fn assert_same_run(folder: &Folder, a: &str, b: &str) {
    for file in SAME_BITS {
        let of = |run: &str| folder.read(&format!("{run}/{file}"));
        assert!(of(a) == of(b), "{file} differs between {a} and {b}");
    }
    let averaged = |run: &str| std::fs::read(folder.path(&format!("{run}/ema.safetensors"))).ok();
    assert!(averaged(a) == averaged(b), "ema.safetensors differs between {a} and {b}");
    assert_eq!(epochs(folder, a), epochs(folder, b), "{a} and {b}");
}

/// Every option that changes how a network is trained, away from its default.
pub const EVERY_OPTION: &str =
    "--weight-decay-scope kernels --clip-norm 0.5 --label-smoothing 0.1 --mixup 0.3 --ema 0.9 --bn-parts 2";

/// The files that a folder holds, in order.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
