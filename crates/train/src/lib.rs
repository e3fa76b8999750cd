//! Training: the optimiser and its learning rates, the loop, checkpoints, the directory of a run, and the proof at its end.

mod average;
pub mod bench;
mod checkpoint;
mod clip;
mod conclude;
mod config;
mod error;
pub mod evaluate;
mod metrics;
mod optimiser;
mod plots;
mod record;
mod run_dir;
mod schedule;
mod step;
mod trainer;
pub mod verify;

pub use checkpoint::Progress;
pub use conclude::{Conclusion, VERIFY_IMAGES, conclude, first_images, fold, fold_and_verify, verify, write_report};
pub use config::{Config, ConfigFile, Precision, Recipe};
pub use error::{Error, NotFinite, Result, data_exit_status, file_exit_status, file_remedy};
pub use metrics::{Epoch, Metrics};
pub use optimiser::{DecayScope, Sgd};
pub use record::{RunRecord, Status};
pub use run_dir::RunDir;
pub use schedule::{LearningRate, Schedule};
pub use trainer::{Outcome, Step, Trainer, Watch};
