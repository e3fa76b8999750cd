//! Whether two networks are the same function: three questions, each with its own figures.
//!
//! *Algebra*: A's weights widened to f64, folded in f64, compared in f64. *Rounding*: B as stored against A, both in A's
//! element type. *Storage*: B as stored, run in f64, against A in f64: the share of the rounding that lies in the file.
//!
//! Per site both networks get A's input of that site; end to end each its own. A figure is max|Δ| over the scale, the
//! largest |y| of A over the images compared. Border positions are those whose kernel reaches into the padding.
//!
//! Where two networks part, [`PartsAt`] names the first site beyond its limit and the likely cause.

mod cause;
mod compare;
mod figures;
mod tensors;
#[cfg(test)]
mod testing;

use std::fmt;

use gatefold_models::Network;
use gatefold_tensor::Real;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::evaluate::Images;
use cause::{Stored, Suspects};

pub use compare::{classes, compare};
pub use figures::{Comparison, Figure, SiteFigures};

/// The largest ratio that counts as equal.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Of the algebra, per site and end to end.
    pub algebra: f64,
    /// Of the rounding, per site.
    pub site: f64,
    /// Of the rounding, end to end.
    pub network: f64,
}

// ANCHOR: limits
impl Default for Limits {
    fn default() -> Self {
        Limits { algebra: 1e-10, site: 1e-5, network: 1e-4 }
    }
}
// ANCHOR_END: limits

/// Two networks, each in the element type in which it computes and widened to f64.
pub struct Pair<'a, T: Real> {
    /// A.
    pub a: &'a dyn Network<T>,
    /// B as stored.
    pub b: &'a dyn Network<T>,
    /// A, widened.
    pub wide_a: &'a dyn Network<f64>,
    /// B, widened.
    pub wide_b: &'a dyn Network<f64>,
    /// The fold of the widened A; `None` if A is folded already.
    pub fold: Option<&'a dyn Network<f64>>,
}

/// The answer, with everything it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whether every figure is within its limit.
    pub equal: bool,
    /// The limits.
    pub limits: Limits,
    /// A against its own fold, in f64; `None` if A is folded already.
    pub algebra: Option<Comparison>,
    /// A against B as stored.
    pub rounding: Comparison,
    /// A against B as stored, in f64.
    pub storage: Comparison,
    /// Where the networks part first, if they do.
    pub parts_at: Option<PartsAt>,
}

/// Where two networks part, and the likely cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsAt {
    /// The first site beyond its limit; `logits` if every site is within; `input` if the images already differ.
    pub path: String,
    /// The question that was answered with no.
    pub question: Question,
    /// The likely cause, in words.
    pub cause: String,
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// Is the fold the right formula?
    Algebra,
    /// Does the stored network compute the same, up to rounding?
    Rounding,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Question::Algebra => "algebra",
            Question::Rounding => "rounding",
        })
    }
}

impl Report {
    /// Asks all questions of two networks over `images`, and looks for the cause where they part.
    ///
    /// # Errors
    /// If the two are not the same network, if there are no images, or if one does not fit.
    pub fn of<T: Real>(pair: &Pair<'_, T>, images: &Images, limits: Limits) -> Result<Self> {
        let Pair { a, b, wide_a, wide_b, fold } = *pair;
        let algebra = fold.map(|fold| compare(wide_a, fold, images.batches::<f64>()?)).transpose()?;
        let rounding = compare(a, b, images.batches::<T>()?)?;
        let storage = compare(wide_a, wide_b, images.batches::<f64>()?)?;
        let mut parts_at = None;
        if let (Some(fold), Some(algebra)) = (fold, &algebra) {
            let suspects = Suspects { a: wide_a, b: fold, stored: None };
            parts_at = suspects.parts_at(algebra, Question::Algebra, (limits.algebra, limits.algebra), images)?;
        }
        if parts_at.is_none() {
            let stored = Stored { a: wide_a, b: wide_b, fold, comparison: &storage };
            let suspects = Suspects { a, b, stored: Some(stored) };
            parts_at = suspects.parts_at(&rounding, Question::Rounding, (limits.site, limits.network), images)?;
        }
        Ok(Report { equal: parts_at.is_none(), limits, algebra, rounding, storage, parts_at })
    }

    /// The exit status of a program that ends with this answer: 0 equal, 1 not.
    pub fn exit_status(&self) -> u8 {
        u8::from(!self.equal)
    }
}

#[cfg(test)]
mod tests {
    use gatefold_layers::SiteSpec;
    use gatefold_tensor::Tensor;

    use super::testing::{AnyNetwork, AnySite, images};
    use super::*;

    fn network(factor: f64) -> AnyNetwork {
        let site = AnySite::new(SiteSpec::pointwise(1, 1), move |x| x.map(|x| factor * x));
        AnyNetwork::new(vec![site], |y| Tensor::from_fn([y.shape()[0], 2], |i| y.view()[[i[0], 0, 0, i[1]]]))
    }

    /// A is the identity, its fold multiplies by `fold`, B as stored by `b`.
    fn report(fold: f64, b: f64) -> Report {
        let [a, fold, b] = [1.0, fold, b].map(network);
        let pair = Pair { a: &a, b: &b, wide_a: &a, wide_b: &b, fold: Some(&fold) };
        Report::of(&pair, &images((0..18).collect()), Limits::default()).unwrap()
    }

    #[test]
    fn the_questions_are_asked_apart_each_with_its_own_limit() {
        let equal = report(1.0 + 0.9e-10, 1.0 + 0.9e-5);
        assert!(equal.equal && equal.parts_at.is_none());
        let wrong_formula = report(1.0 + 1.1e-10, 1.0);
        let parts_at = wrong_formula.parts_at.as_ref().unwrap();
        assert_eq!((parts_at.path.as_str(), parts_at.question), ("0", Question::Algebra));
        assert!(!wrong_formula.equal);
        let wrong_file = report(1.0, 1.0 + 1.1e-5);
        let parts_at = wrong_file.parts_at.as_ref().unwrap();
        assert_eq!((parts_at.path.as_str(), parts_at.question), ("0", Question::Rounding));
        assert!(!wrong_file.equal);
    }

    #[test]
    fn the_exit_status_is_the_answer() {
        assert_eq!(report(1.0, 1.0).exit_status(), 0);
        assert_eq!(report(1.1, 1.0).exit_status(), 1);
        assert_eq!(report(1.0, 1.1).exit_status(), 1);
    }

    #[test]
    fn a_nan_in_b_is_not_equal() {
        let report = report(1.0, f64::NAN);
        assert!(!report.equal && report.parts_at.is_some());
        assert_eq!((report.rounding.top1_equal, report.rounding.images), (0, 3));
    }

    #[test]
    fn without_a_fold_the_algebra_is_not_asked() {
        let a = network(1.0);
        let pair = Pair { a: &a, b: &a, wide_a: &a, wide_b: &a, fold: None };
        let report = Report::of(&pair, &images(vec![7; 6]), Limits::default()).unwrap();
        assert!(report.equal && report.algebra.is_none());
    }

    #[test]
    fn a_report_is_the_same_after_json() {
        let back = |report: &Report| -> Report {
            serde_json::from_str(&serde_json::to_string_pretty(report).unwrap()).unwrap()
        };
        for report in [report(1.0, 1.0), report(1.0, 1.1), report(1.1, 1.0)] {
            assert_eq!(back(&report), report);
        }
        // JSON has no NaN: it is null there, and NaN again behind it.
        let report = report(1.0, f64::NAN);
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["rounding"]["logits"]["ratio"].is_null());
        assert_eq!(json["parts_at"]["question"], "rounding");
        let back = back(&report);
        assert!(back.rounding.logits.ratio.is_nan() && back.rounding.worst_site().is_nan());
        assert_eq!(serde_json::to_value(&back).unwrap(), json);
    }
}
