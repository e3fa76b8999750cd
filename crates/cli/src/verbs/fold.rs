//! `fold MODEL`: writes the folded model and verifies it.

use std::path::PathBuf;
use std::process::ExitCode;

use gatefold_models::Model;
use gatefold_train::{Conclusion, fold_and_verify};

use super::eval::{Test, test_set};
use crate::{place, print};

/// What `fold` takes.
#[derive(clap::Args)]
pub struct Args {
    /// The trained model: a run directory or a file
    model: PathBuf,
    /// The file to write; an existing file is never overwritten
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    test: Test,
}

/// Exit status 0 if the fold equals the model, 1 if not or if there is none.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.out.exists() {
        let message = format!("`{}` exists and is not overwritten", args.out.display());
        return Err(print::usage_instead(message, "name another file with `--out`"));
    }
    let model = Model::<f32>::load(&place::model_file(&args.model)?)?;
    let test = test_set(&model.description, &args.test)?;
    match fold_and_verify(&model, &test, &args.out, None)? {
        Conclusion::NotFoldable(why) => {
            print::not_foldable(&why);
            Ok(ExitCode::FAILURE)
        }
        Conclusion::Verified(report) => {
            println!("wrote {}", args.out.display());
            print::report(&report);
            Ok(ExitCode::from(report.exit_status()))
        }
    }
}
