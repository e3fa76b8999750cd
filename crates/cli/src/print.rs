//! What is printed: errors with their remedy and exit status, and the verdict of a comparison.

use std::process::ExitCode;

use gatefold_data::Loaded;
use gatefold_models::{FileError, NotFoldable};
use gatefold_train::verify::{Comparison, Figure, Report};
use gatefold_train::{Error, file_remedy};

/// An error of usage, exit status 2.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Error::Usage { message: message.into(), remedy: None }.into()
}

/// An error of usage with what to do instead.
pub fn usage_instead(message: impl Into<String>, remedy: impl Into<String>) -> anyhow::Error {
    Error::Usage { message: message.into(), remedy: Some(remedy.into()) }.into()
}

/// Prints what the user of a data set should know of its files.
pub fn remarks(loaded: &Loaded) {
    loaded.remarks.iter().for_each(|remark| eprintln!("note: {remark}"));
}

/// Prints an error, its causes and its remedy, and gives the exit status.
pub fn error(error: &anyhow::Error) -> ExitCode {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("error: {text}");
    let of_file = || error.downcast_ref().and_then(file_remedy);
    if let Some(remedy) = error.downcast_ref().and_then(Error::remedy).or_else(of_file) {
        eprintln!("remedy: {remedy}");
    }
    ExitCode::from(status(error))
}

fn status(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.exit_status();
    }
    if let Some(error) = error.downcast_ref::<gatefold_data::Error>() {
        return gatefold_train::data_exit_status(error);
    }
    match error.downcast_ref::<FileError>() {
        Some(error) => gatefold_train::file_exit_status(error),
        None if error.downcast_ref::<std::io::Error>().is_some() => 6,
        None => 4,
    }
}

/// Prints that there is no fold.
pub fn not_foldable(why: &NotFoldable) {
    println!("NOT FOLDABLE: {why}");
}

/// Prints a comparison, site by site, and the verdict as the last line.
pub fn report(report: &Report) {
    let width = report.rounding.sites.iter().map(|site| site.path.len()).max().unwrap_or(0).max(8);
    println!("{:width$}  {:>19}  {:>19}  {:>19}", "", "algebra (f64)", "rounding (stored)", "storage (f64)");
    println!("{:width$}  {}  {}  {}", "site", COLUMNS, COLUMNS, COLUMNS);
    let cells = |comparison: Option<&Comparison>, i: usize| match comparison.map(|c| &c.sites[i]) {
        Some(site) => format!("{} {}", figure(site.interior), figure(site.border)),
        None => format!("{} {}", figure(None), figure(None)),
    };
    for (i, site) in report.rounding.sites.iter().enumerate() {
        let algebra = cells(report.algebra.as_ref(), i);
        println!(
            "{:width$}  {algebra}  {}  {}",
            site.path,
            cells(Some(&report.rounding), i),
            cells(Some(&report.storage), i)
        );
    }
    let logits = |comparison: Option<&Comparison>| format!("{:>19}", figure(comparison.map(|c| c.logits)).trim());
    println!(
        "{:width$}  {}  {}  {}",
        "logits",
        logits(report.algebra.as_ref()),
        logits(Some(&report.rounding)),
        logits(Some(&report.storage))
    );
    let rounding = &report.rounding;
    println!(
        "max|Δ| of the logits {:.2e}, scale {:.4}; top-1 equal {}/{}",
        rounding.logits.difference, rounding.logits.scale, rounding.top1_equal, rounding.images
    );
    let worst = rounding.sites.iter().fold(0.0, |worst: f64, site| worst.max(site.worst()));
    let limits = &report.limits;
    println!("tolerance that would just pass: {worst:.1e} a site, {:.1e} the network", rounding.logits.ratio);
    match &report.parts_at {
        None => println!(
            "EQUAL over {} images (limits: {:.0e} in f64; as stored {:.0e} a site, {:.0e} the network)",
            rounding.images, limits.algebra, limits.site, limits.network
        ),
        Some(at) => println!("NOT EQUAL: parts first at `{}` ({}): {}", at.path, at.question, at.cause),
    }
}

const COLUMNS: &str = " interior    border";

/// A ratio in a column of nine; a dash where there is nothing to compare.
fn figure(figure: Option<Figure>) -> String {
    figure.map_or_else(|| format!("{:>9}", "-"), |figure| format!("{:>9.1e}", figure.ratio))
}
