//! The end of a run: the plain model, its fold, and the proof.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use gatefold_data::Dataset;
use gatefold_models::{Model, Normalisation, NotFoldable, file};
use gatefold_tensor::Real;

use crate::evaluate::{Images, normalisation};
use crate::verify::{Limits, Pair, PartsAt, Question, Report};
use crate::{Error, Result, RunDir};

/// How many test images are compared unless somebody says otherwise.
pub const VERIFY_IMAGES: usize = 1000;

/// The fold of a model, computed in f64 and rounded once.
///
/// # Errors
/// [`NotFoldable`] names the first site without a fold.
pub fn fold<T: Real>(model: &Model<T>) -> Result<Model<T>, NotFoldable> {
    let rebuilt = "a model that exists can be rebuilt in another element type";
    let folded = model.cast::<f64>().expect(rebuilt).fold()?;
    Ok(folded.cast().expect(rebuilt))
}

/// Whether `b` is the same function as `a`, over the images of `data`.
///
/// # Errors
/// If the two are not the same network, if there are no images, or if one does not fit.
pub fn verify<T: Real>(a: &Model<T>, b: &Model<T>, data: &Arc<Dataset>) -> Result<Result<Report, NotFoldable>> {
    let (wide_a, wide_b) = (a.cast::<f64>()?, b.cast::<f64>()?);
    let fold = match a.description.folded {
        true => None,
        false => match wide_a.fold() {
            Ok(fold) => Some(fold),
            Err(why) => return Ok(Err(why)),
        },
    };
    let pair = Pair {
        a: &*a.network,
        b: &*b.network,
        wide_a: &*wide_a.network,
        wide_b: &*wide_b.network,
        fold: fold.as_ref().map(|fold| &*fold.network),
    };
    let mut report = Report::of(&pair, &Images::new(data, normalisation(a)), Limits::default())?;
    if let Some(cause) = other_input(&a.description.normalisation, &b.description.normalisation) {
        report.parts_at = Some(PartsAt { path: "input".to_owned(), question: Question::Rounding, cause });
        report.equal = false;
    }
    Ok(Ok(report))
}

/// How B makes another input of the same image than A does.
fn other_input(a: &Normalisation, b: &Normalisation) -> Option<String> {
    let cause = |what, a: &dyn Debug, b: &dyn Debug| {
        Some(format!("normalisation: the {what} of a pixel is {a:?} in A and {b:?} in B; the figures are those of A's"))
    };
    if a.mean != b.mean {
        return cause("mean", &a.mean, &b.mean);
    }
    if a.std != b.std {
        return cause("deviation", &a.std, &b.std);
    }
    if a.maximum != b.maximum { cause("largest value", &a.maximum, &b.maximum) } else { None }
}

/// The first `count` images of a set.
pub fn first_images(data: &Dataset, count: usize) -> Arc<Dataset> {
    let mut first = data.clone();
    first.truncate(count);
    Arc::new(first)
}

/// Writes a report as JSON.
///
/// # Errors
/// [`Error::Io`].
pub fn write_report(report: &Report, path: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report).expect("a report is plain data");
    file::write_atomic(path, |out| writeln!(out, "{json}")).map_err(|e| Error::io("write", path, e))
}

/// What the end of a run says.
pub enum Conclusion {
    /// The folded model is written, and this is how it compares.
    Verified(Box<Report>),
    /// There is no fold.
    NotFoldable(NotFoldable),
}

/// Writes the plain model, folds it, verifies the fold and writes both.
///
/// # Errors
/// As the files and the comparison.
pub fn conclude<T: Real>(model: &Model<T>, test: &Dataset, dir: &RunDir) -> Result<Conclusion> {
    model.save(&dir.model())?;
    fold_and_verify(model, test, &dir.folded_model(), Some(&dir.equivalence()))
}

/// Folds a model into a file and verifies the file; the report goes to `report`, if a path is given.
///
/// # Errors
/// As the files and the comparison.
pub fn fold_and_verify<T: Real>(
    model: &Model<T>,
    test: &Dataset,
    path: &Path,
    report: Option<&Path>,
) -> Result<Conclusion> {
    let folded = match fold(model) {
        Ok(folded) => folded,
        Err(why) => return Ok(Conclusion::NotFoldable(why)),
    };
    folded.save(path)?;
    // What is verified is the file, not the network it was written from.
    let stored = Model::load(path)?;
    match verify(model, &stored, &first_images(test, VERIFY_IMAGES))? {
        Err(why) => Ok(Conclusion::NotFoldable(why)),
        Ok(answer) => {
            if let Some(path) = report {
                write_report(&answer, path)?;
            }
            Ok(Conclusion::Verified(Box::new(answer)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_makes_another_input_is_named() {
        let a = Normalisation { maximum: 255, mean: vec![0.5], std: vec![0.25] };
        let cause = |b: Normalisation| other_input(&a, &b);
        assert_eq!(cause(a.clone()), None);
        let mean = cause(Normalisation { mean: vec![0.4], ..a.clone() }).unwrap();
        assert!(mean.starts_with("normalisation: the mean of a pixel is [0.5] in A and [0.4] in B"), "{mean}");
        assert!(cause(Normalisation { std: vec![0.2], ..a.clone() }).unwrap().contains("the deviation of a pixel"));
        let maximum = cause(Normalisation { maximum: 16, ..a.clone() }).unwrap();
        assert!(maximum.contains("the largest value of a pixel is 255 in A and 16 in B"), "{maximum}");
    }
}
