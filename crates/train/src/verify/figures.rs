//! What a comparison measures: ratios at each site and end to end.

use serde::{Deserialize, Deserializer, Serialize};

/// A largest difference, and what it is measured against. In JSON, what is not finite is null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// max|y_A − y_B|.
    #[serde(deserialize_with = "null_as_nan")]
    pub difference: f64,
    /// max|y_A|.
    #[serde(deserialize_with = "null_as_nan")]
    pub scale: f64,
    /// Difference over scale: the tolerance that would just pass.
    #[serde(deserialize_with = "null_as_nan")]
    pub ratio: f64,
}

/// JSON has no NaN: a figure that was none is written as null.
fn null_as_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The larger one; a NaN stays.
pub(super) fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

impl Figure {
    /// Takes in more values; a NaN stays.
    pub(super) fn widen(&mut self, difference: f64, scale: f64) {
        self.difference = larger(self.difference, difference);
        self.scale = larger(self.scale, scale);
        self.ratio = if self.difference == 0.0 { 0.0 } else { self.difference / self.scale };
    }

    /// Whether the ratio is within `limit`; NaN never is.
    pub fn within(&self, limit: f64) -> bool {
        self.ratio <= limit
    }
}

/// A site's figures, apart for border and interior. Both are measured against the scale of the whole site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteFigures {
    /// The site's path.
    pub path: String,
    /// Positions whose kernel reaches into the padding; `None` where none does, as in every 1x1 site.
    pub border: Option<Figure>,
    /// All other positions; `None` where there are none.
    pub interior: Option<Figure>,
}

impl SiteFigures {
    /// The worse ratio of border and interior, NaN if either is.
    pub fn worst(&self) -> f64 {
        [self.border, self.interior].into_iter().flatten().fold(0.0, |worst, figure| larger(worst, figure.ratio))
    }

    /// Whether border and interior are within `limit`.
    pub fn within(&self, limit: f64) -> bool {
        self.worst() <= limit
    }

    /// max|y_A| over the site.
    pub(super) fn scale(&self) -> f64 {
        [self.border, self.interior].into_iter().flatten().fold(0.0, |scale, figure| larger(scale, figure.scale))
    }
}

/// Two networks compared over a number of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Images compared.
    pub images: usize,
    /// Every site, in the order of the forward pass.
    pub sites: Vec<SiteFigures>,
    /// The logits, end to end.
    pub logits: Figure,
    /// Images for which both networks name the same class first. An image with a NaN among its logits names none.
    pub top1_equal: usize,
}

impl Comparison {
    /// The first site beyond `limit`.
    pub fn first_beyond(&self, limit: f64) -> Option<&SiteFigures> {
        self.sites.iter().find(|site| !site.within(limit))
    }

    /// The worst ratio of all sites: the tolerance a site that would just pass. NaN if any is.
    pub fn worst_site(&self) -> f64 {
        self.sites.iter().fold(0.0, |worst, site| larger(worst, site.worst()))
    }

    /// The worst ratio of all, sites and logits; NaN if any is.
    pub fn worst(&self) -> f64 {
        larger(self.worst_site(), self.logits.ratio)
    }

    /// The figures of the site at `path`.
    pub fn site(&self, path: &str) -> Option<&SiteFigures> {
        self.sites.iter().find(|site| site.path == path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(difference: f64, scale: f64) -> Figure {
        let mut figure = Figure::default();
        figure.widen(difference, scale);
        figure
    }

    #[test]
    fn a_ratio_is_the_largest_difference_over_the_largest_value() {
        let mut figure = figure(0.5, 2.0);
        figure.widen(0.25, 8.0);
        assert_eq!(figure, Figure { difference: 0.5, scale: 8.0, ratio: 0.0625 });
        figure.widen(2.0, 1.0);
        assert_eq!(figure, Figure { difference: 2.0, scale: 8.0, ratio: 0.25 });
    }

    #[test]
    fn the_ratio_is_the_tolerance_that_would_just_pass() {
        let figure = figure(3.0, 7.0);
        assert!(figure.within(figure.ratio));
        assert!(!figure.within(figure.ratio.next_down()));
    }

    #[test]
    fn no_difference_passes_whatever_the_scale_and_a_difference_from_nothing_never_does() {
        assert!(figure(0.0, 0.0).within(0.0));
        assert!(!figure(1e-30, 0.0).within(f64::MAX));
    }

    #[test]
    fn a_nan_never_passes_and_never_goes_away() {
        for (difference, scale) in [(f64::NAN, 1.0), (1.0, f64::NAN)] {
            let mut figure = figure(difference, scale);
            figure.widen(0.0, 1.0);
            assert!(!figure.within(f64::INFINITY), "{figure:?}");
            for (border, interior) in [(Some(figure), Some(Figure::default())), (Some(Figure::default()), Some(figure))]
            {
                let site = SiteFigures { path: String::new(), border, interior };
                assert!(site.worst().is_nan() && !site.within(f64::INFINITY));
            }
        }
    }

    #[test]
    fn the_first_site_beyond_and_the_worst_are_found() {
        let site =
            |path: &str, border: Option<Figure>, interior| SiteFigures { path: path.to_owned(), border, interior };
        let sites = vec![
            site("a", None, Some(figure(1.0, 1e6))),
            site("b", Some(figure(2.0, 1e3)), Some(figure(1.0, 1e3))),
            site("c", None, Some(figure(1.0, 10.0))),
        ];
        let mut comparison = Comparison { images: 1, sites, logits: Figure::default(), top1_equal: 1 };
        let first = |comparison: &Comparison, limit| comparison.first_beyond(limit).map(|site| site.path.clone());
        assert_eq!(first(&comparison, 1e-3).as_deref(), Some("b"));
        assert_eq!(first(&comparison, 1e-2).as_deref(), Some("c"));
        assert_eq!(first(&comparison, 0.1), None);
        assert_eq!((comparison.worst_site(), comparison.worst()), (0.1, 0.1));
        comparison.logits = figure(f64::NAN, 1.0);
        assert!(comparison.worst().is_nan());
        assert_eq!(comparison.site("b").unwrap().worst(), 2e-3);
        comparison.sites[0].interior = Some(figure(f64::NAN, 1.0));
        assert_eq!(first(&comparison, 0.1).as_deref(), Some("a"));
        assert!(comparison.worst_site().is_nan());
    }
}
