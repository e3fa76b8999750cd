//! The command line: the only crate that prints or exits.

mod place;
mod print;
mod progress;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use verbs::{bench, data, doctor, eval, fold, gradcheck, import, predict, recipes, resume, summary, train, verify};

/// Trains small convolutional networks unfolded, folds them, and proves with numbers that both are the same function.
#[derive(Parser)]
#[command(name = "gatefold", version, arg_required_else_help = true)]
#[command(after_help = "Exit status: 0 done; 1 the answer is no; 2 usage; 3 data; 4 configuration or checkpoint; \
                        5 diverged; 6 input/output; 130 interrupted, the checkpoint is written.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Threads; `bench` takes several [default: RAYON_NUM_THREADS, else the number of cores]
    #[arg(long, global = true, value_name = "N", value_delimiter = ',')]
    threads: Vec<usize>,
}

#[derive(Subcommand)]
enum Verb {
    /// Train a network, fold it, and verify the fold
    Train(Box<train::Args>),
    /// List the named configurations that `train --recipe` takes, or print one
    Recipes(recipes::Args),
    /// Continue a run from its last checkpoint, with the same bits
    Resume(resume::Args),
    /// Loss and accuracy of a model on a test set
    Eval(eval::Args),
    /// Fold a model, and verify the fold
    Fold(fold::Args),
    /// Make a model of weights that others trained
    Import(import::Args),
    /// Whether two models are the same function
    Verify(verify::Args),
    /// Layers, parameters and multiply-accumulates, trained and folded
    Summary(summary::Args),
    /// How fast networks train and classify on this machine
    Bench(bench::Args),
    /// Hold every gradient against central differences
    Gradcheck(gradcheck::Args),
    /// Classify image files
    Predict(predict::Args),
    /// List, download and verify data sets
    Data(data::Args),
    /// What this machine offers, and whether the program works on it
    Doctor(doctor::Args),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => print::error(&error),
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    if cli.threads.contains(&0) {
        return Err(print::usage("--threads 0: at least one thread is needed"));
    }
    let threads = match (&cli.threads[..], &cli.verb) {
        (&[threads], _) => threads,
        ([], _) | (_, Verb::Bench(_)) => 0, // RAYON_NUM_THREADS, else the number of cores
        _ => return Err(print::usage("--threads: only `bench` takes several numbers")),
    };
    // This thread works too: to hand each operation over and sleep until it is done costs more than a small one takes.
    rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global()?;
    match &cli.verb {
        Verb::Train(args) => train::run(args),
        Verb::Recipes(args) => recipes::run(args),
        Verb::Resume(args) => resume::run(args),
        Verb::Eval(args) => eval::run(args),
        Verb::Fold(args) => fold::run(args),
        Verb::Import(args) => import::run(args),
        Verb::Verify(args) => verify::run(args),
        Verb::Summary(args) => summary::run(args),
        Verb::Bench(args) => bench::run(args, &cli.threads),
        Verb::Gradcheck(args) => gradcheck::run(args),
        Verb::Predict(args) => predict::run(args),
        Verb::Data(args) => data::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "gatefold", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
