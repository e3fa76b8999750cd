//! Learning rates: a function of the epoch, set once at its start.
//!
//! ```text
//! constant   η_e = η                                                    (lr.1)
//! cosine     η_e = η/2·(1 + cos(π·(e − W)/(E − W)))                     (lr.2)
//! step       η_e = η·γ^(number of drops up to epoch e)                  (lr.3)
//! warm-up    η_e = η·(e + 1)/(W + 1)  for e < W                         (lr.4)
//! ```
//! e = 0…E−1 is the epoch, E their number, W that of the warm-up. Milestones count from the start of the run.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate changes over a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Schedule {
    /// From η down towards 0 along half a cosine, (lr.2).
    Cosine(NoOptions),
    /// Falls at certain epochs, (lr.3).
    Step(Step),
    /// Stays, (lr.1).
    Constant(NoOptions),
}

/// A schedule without options of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}

/// When the rate falls, and to what share. Either `every` or `milestones` says when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Falls every so many epochs; 0 where milestones are given.
    #[serde(default)]
    pub every: usize,
    /// Falls at the start of each of these epochs, counted from 0.
    #[serde(default)]
    pub milestones: Vec<usize>,
    /// γ, what remains of the rate at each fall.
    pub gamma: f64,
}

impl Schedule {
    /// The names of all schedules, as the command line takes them.
    pub const NAMES: &[&str] = &["cosine", "step", "constant"];

    /// The schedule of that name with its default options: `step` falls to a tenth every 30 epochs.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "cosine" => Schedule::Cosine(NoOptions {}),
            "step" => Schedule::Step(Step { every: 30, milestones: Vec::new(), gamma: 0.1 }),
            "constant" => Schedule::Constant(NoOptions {}),
            _ => return None,
        })
    }

    /// The name.
    pub fn name(&self) -> &'static str {
        match self {
            Schedule::Cosine(_) => "cosine",
            Schedule::Step(_) => "step",
            Schedule::Constant(_) => "constant",
        }
    }
}

/// The learning rate of every epoch of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct LearningRate {
    /// η.
    pub base: f64,
    /// E, at least 1.
    pub epochs: usize,
    /// W, below E; 0 for none.
    pub warmup_epochs: usize,
    /// What follows the warm-up.
    pub schedule: Schedule,
}

impl LearningRate {
    /// η_e of `epoch`, counted from 0.
    pub fn lr(&self, epoch: usize) -> f64 {
        let (e, n, w) = (epoch as f64, self.epochs as f64, self.warmup_epochs as f64);
        if epoch < self.warmup_epochs {
            return self.base * (e + 1.0) / (w + 1.0);
        }
        match &self.schedule {
            Schedule::Constant(_) => self.base,
            Schedule::Cosine(_) => self.base / 2.0 * (1.0 + (PI * (e - w) / (n - w)).cos()),
            Schedule::Step(step) => self.base * step.gamma.powf(step.drops(epoch) as f64),
        }
    }
}

impl Step {
    fn drops(&self, epoch: usize) -> usize {
        let passed = self.milestones.iter().filter(|&&milestone| milestone <= epoch).count();
        passed + epoch.checked_div(self.every).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    fn rates(name: &str, epochs: usize, warmup_epochs: usize) -> Vec<f64> {
        let schedule = Schedule::named(name).unwrap();
        let rate = LearningRate { base: 0.1, epochs, warmup_epochs, schedule };
        (0..epochs).map(|e| rate.lr(e)).collect()
    }

    fn assert_rates(rates: &[f64], expected: &[f64]) {
        assert_eq!(rates.len(), expected.len());
        for (rate, expected) in rates.iter().zip(expected) {
            assert_relative_eq!(rate, expected, max_relative = 1e-14);
        }
    }

    #[test]
    fn cosine_falls_from_the_base_towards_zero() {
        let half = 0.5_f64.sqrt();
        assert_rates(&rates("cosine", 4, 0), &[0.1, 0.05 * (1.0 + half), 0.05, 0.05 * (1.0 - half)]);
        let all = rates("cosine", 200, 0);
        assert!(all.windows(2).all(|pair| pair[1] < pair[0]) && all[199] > 0.0);
    }

    #[test]
    fn a_warm_up_rises_to_the_base_and_the_cosine_spans_the_rest() {
        let rates = rates("cosine", 7, 3);
        assert_rates(&rates[..5], &[0.025, 0.05, 0.075, 0.1, 0.05 * (1.0 + 0.5_f64.sqrt())]);
        assert_rates(&rates[5..6], &[0.05]);
    }

    #[test]
    fn steps_fall_at_multiples_or_milestones() {
        let rates_of = |every, milestones: &[usize]| {
            let schedule = Schedule::Step(Step { every, milestones: milestones.to_vec(), gamma: 0.5 });
            let rate = LearningRate { base: 0.1, epochs: 6, warmup_epochs: 0, schedule };
            (0..6).map(|e| rate.lr(e)).collect::<Vec<_>>()
        };
        assert_rates(&rates_of(2, &[]), &[0.1, 0.1, 0.05, 0.05, 0.025, 0.025]);
        assert_rates(&rates_of(0, &[1, 5]), &[0.1, 0.05, 0.05, 0.05, 0.05, 0.025]);
        assert_rates(&rates("step", 31, 0)[29..], &[0.1, 0.01]);
        assert_rates(&rates("constant", 3, 0), &[0.1; 3]);
    }

    #[test]
    fn names_are_those_of_the_file() {
        for name in Schedule::NAMES {
            let schedule = Schedule::named(name).unwrap();
            assert_eq!(schedule.name(), *name);
            let text = toml::to_string(&schedule).unwrap();
            assert!(text.starts_with(&format!("kind = \"{name}\"")), "{text}");
            assert_eq!(toml::from_str::<Schedule>(&text).unwrap(), schedule);
        }
        assert_eq!(Schedule::named("linear"), None);
    }
}
