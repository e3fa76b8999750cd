//! `resume RUN`: continues a run from its last checkpoint, with the same bits.

use std::path::PathBuf;
use std::process::ExitCode;

use gatefold_train::{Precision, RunDir, RunRecord, Trainer};

use super::train::{go, load_set};
use crate::place;

/// What `resume` takes.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory
    run: PathBuf,
    /// The folder that contains the data sets [default: GATEFOLD_DATA, else the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// As `train`.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (dir, config) = RunDir::open(&args.run)?;
    let data_dir = place::data_dir(args.data_dir.as_deref());
    let loaded = load_set(&config, &data_dir)?;
    let record = RunRecord::resume(&dir, &config, &loaded, &data_dir)?;
    let last = dir.last_checkpoint();
    match config.precision {
        Precision::F32 => go(Trainer::<f32>::resume(config, loaded, &last)?, |_| Ok(dir), record),
        Precision::F64 => go(Trainer::<f64>::resume(config, loaded, &last)?, |_| Ok(dir), record),
    }
}
