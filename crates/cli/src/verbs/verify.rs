//! `verify A B`: whether two models are the same function.

use std::path::PathBuf;
use std::process::ExitCode;

use gatefold_models::Model;
use gatefold_train::{VERIFY_IMAGES, first_images, verify, write_report};

use super::eval::{Test, test_set};
use crate::{place, print};

/// What `verify` takes.
#[derive(clap::Args)]
pub struct Args {
    /// The trained model: a run directory or a file
    a: PathBuf,
    /// The folded model: a run directory or a file
    b: PathBuf,
    #[command(flatten)]
    test: Test,
    /// Also write the report as JSON to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Exit status 0 if equal, 1 if not.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let a = Model::<f32>::load(&place::model_file(&args.a)?)?;
    let b = Model::<f32>::load(&place::model_file(&args.b)?)?;
    let test = test_set(&a.description, &args.test)?;
    let data = first_images(&test, args.test.limit.unwrap_or(VERIFY_IMAGES));
    match verify(&a, &b, &data)? {
        Err(why) => {
            print::not_foldable(&why);
            Ok(ExitCode::FAILURE)
        }
        Ok(report) => {
            if let Some(path) = &args.report {
                write_report(&report, path)?;
            }
            print::report(&report);
            Ok(ExitCode::from(report.exit_status()))
        }
    }
}
