//! How fast a network trains and classifies on this machine: random data, no file, the step that the loop takes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use gatefold_autograd::profile::{Event, profile};
use gatefold_models::{Description, Inference, Model, Normalisation};
use gatefold_tensor::random::randn;
use gatefold_tensor::{Real, Tensor};

use crate::error::NotFinite;
use crate::step::{Part, Step, Taken, step};
use crate::{Config, Error, Precision, Result, Sgd, fold};

/// Channels, height and width of the random images.
const INPUT: [usize; 3] = [3, 32, 32];
/// Classes of the random labels.
const CLASSES: usize = 10;
/// What runs before the measurement: caches, clocks and memory settle.
const WARM_UP: Duration = Duration::from_millis(500);
/// A measurement has at least so many steps, however long they take.
const LEAST_STEPS: usize = 3;

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Forward, cross-entropy, backward, SGD, running statistics.
    Train,
    /// The logits of a batch, in eval mode, of the network as it is trained.
    Unfolded,
    /// The same of the folded network.
    Folded,
}

/// A measurement.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Trained values of the network, before any fold.
    pub parameters: usize,
    /// Multiply-accumulates of one image's forward pass as the summary counts them. A form that computes the same
    /// function with fewer is measured by what it replaces.
    pub macs: usize,
    /// The time of each step in ms, rising; not empty.
    pub steps_ms: Vec<f64>,
    /// Images in a step.
    pub batch_size: usize,
    /// Whether a plan was measured, not a forward pass.
    pub planned: bool,
    /// The median of each part of a step, in ms, in the order of the step. What a step does besides (freeing memory,
    /// above all) is the last.
    pub parts: Vec<(&'static str, f64)>,
    /// The ops of a training step in its order, if they were asked for: what ran more than once is one entry.
    pub ops: Vec<OpTime>,
    /// Forward passes whose multiply-accumulates a step is worth: by the field's count backward is two.
    passes: usize,
}

/// What the ops of one name, direction and output shape take in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct OpTime {
    /// The op's name on the tape.
    pub op: &'static str,
    /// Whether this is its backward pass.
    pub backward: bool,
    /// The shape of its output.
    pub shape: Vec<usize>,
    /// How often it runs in a step.
    pub count: usize,
    /// Bytes of its outputs, all runs of a step together.
    pub bytes: usize,
    /// The median over the steps, all runs of a step together, in ms.
    pub ms: f64,
}

impl Measurement {
    /// The median time of a step in ms.
    pub fn median_ms(&self) -> f64 {
        median(&self.steps_ms)
    }

    /// The shortest step in ms.
    pub fn min_ms(&self) -> f64 {
        self.steps_ms[0]
    }

    /// The longest step in ms.
    pub fn max_ms(&self) -> f64 {
        self.steps_ms[self.steps_ms.len() - 1]
    }

    /// Images a second, by the median.
    pub fn images_per_second(&self) -> f64 {
        1e3 * self.batch_size as f64 / self.median_ms()
    }

    /// 10⁹ operations a second, by the median. A multiply-accumulate is two, and a training step three forward passes.
    pub fn gflops(&self) -> f64 {
        let operations = 2 * self.passes * self.macs * self.batch_size;
        operations as f64 / self.median_ms() / 1e6
    }
}

/// Measures the network of `config` in its precision, on the current thread pool, for `seconds` after half a second of
/// warm-up. Of `config` count the network, the batch size, the optimiser and the seed. With `by_op` a training step is
/// timed op by op too.
///
/// # Errors
/// If the options do not fit the backbone, [`Error::Diverged`], and [`Error::Usage`] if a fold is asked for and there is
/// none.
pub fn measure(config: &Config, mode: Mode, seconds: f64, by_op: bool) -> Result<Measurement> {
    match config.precision {
        Precision::F32 => measure_in::<f32>(config, mode, seconds, by_op),
        Precision::F64 => measure_in::<f64>(config, mode, seconds, by_op),
    }
}

fn measure_in<T: Real>(config: &Config, mode: Mode, seconds: f64, by_op: bool) -> Result<Measurement> {
    let mut model = Model::<T>::new(description(config), config.seed)?;
    let parameters = model.network.parameters();
    if mode == Mode::Folded {
        let remedy = Some("measure the network as it is trained: `--unfolded`".to_owned());
        model = fold(&model).map_err(|why| Error::Usage { message: why.to_string(), remedy })?;
    }
    let macs: usize = model.network.layers([INPUT[1], INPUT[2]])?.iter().map(|layer| layer.cost.macs).sum();
    let images = randn([config.batch_size, INPUT[0], INPUT[1], INPUT[2]], config.seed);
    let (times, planned) = match mode {
        Mode::Train => (training(config, &mut model, &images, seconds, by_op)?, false),
        Mode::Unfolded | Mode::Folded => {
            let inference = Inference::new(&model)?;
            (classifying(&inference, &images, seconds)?, inference.is_planned())
        }
    };
    let passes = if mode == Mode::Train { 3 } else { 1 };
    Ok(Measurement { planned, ..times.measurement(parameters, macs, config.batch_size, passes) })
}

/// The network that `config` names, for random data.
fn description(config: &Config) -> Description {
    let (mean, std) = (vec![0.0; INPUT[0]], vec![1.0; INPUT[0]]);
    Description {
        backbone: config.backbone,
        width: config.width,
        conv: config.conv.clone(),
        folded: false,
        input: INPUT,
        classes: (0..CLASSES).map(|class| class.to_string()).collect(),
        dataset: "random".to_owned(),
        normalisation: Normalisation { maximum: 255, mean, std },
    }
}

fn training<T: Real>(
    config: &Config,
    model: &mut Model<T>,
    images: &Tensor<T>,
    seconds: f64,
    by_op: bool,
) -> Result<Times> {
    let mut sgd = Sgd::new(config.momentum, config.weight_decay);
    // A fixed assignment that no pixel knows of: as hard to learn as a drawn one.
    let labels: Vec<usize> = (0..config.batch_size).map(|image| image % CLASSES).collect();
    let batch = Step::new(config, images, &labels, config.lr);
    let mut steps = 0;
    repeat(seconds, |clock| {
        let laps = &mut *clock;
        let mut run = || step(&mut *model.network, &mut sgd, &batch, |part: Part| laps.lap(part.name()));
        let (taken, events) = if by_op { profile(run) } else { (run(), Vec::new()) };
        clock.events = events;
        let taken = taken?;
        let not_finite = match taken {
            Taken::Step { .. } => None,
            Taken::LossNotFinite => Some(NotFinite::Loss),
            Taken::ValueNotFinite(value) => Some(value),
        };
        if let Some(what) = not_finite {
            return Err(Error::Diverged { epoch: 0, step: steps, what });
        }
        steps += 1;
        Ok(())
    })
}

fn classifying<T: Real>(inference: &Inference<'_, T>, images: &Tensor<T>, seconds: f64) -> Result<Times> {
    repeat(seconds, |clock| {
        black_box(inference.logits(images)?.as_slice());
        clock.lap(Part::Forward.name());
        Ok(())
    })
}

/// The parts of the step under way: each lap ends one.
struct Clock {
    since: Instant,
    laps: Vec<(&'static str, f64)>,
    events: Vec<Event>,
}

impl Clock {
    fn lap(&mut self, part: &'static str) {
        let now = Instant::now();
        self.laps.push((part, ms(now - self.since)));
        self.since = now;
    }
}

fn ms(duration: Duration) -> f64 {
    1e3 * duration.as_secs_f64()
}

/// The time of each step, and of its parts.
#[derive(Default)]
struct Times {
    steps: Vec<f64>,
    parts: Vec<(&'static str, Vec<f64>)>,
    ops: Vec<(OpTime, Vec<f64>)>,
}

/// Takes steps until they settle, then for `seconds`.
fn repeat(seconds: f64, mut step: impl FnMut(&mut Clock) -> Result<()>) -> Result<Times> {
    let mut timed = |times: &mut Times| -> Result<()> {
        let start = Instant::now();
        let mut clock = Clock { since: start, laps: Vec::new(), events: Vec::new() };
        step(&mut clock)?;
        clock.lap("rest");
        times.steps.push(ms(clock.since - start));
        for (index, (part, ms)) in clock.laps.into_iter().enumerate() {
            match times.parts.get_mut(index) {
                Some((_, all)) => all.push(ms),
                None => times.parts.push((part, vec![ms])),
            }
        }
        times.add_ops(&clock.events);
        Ok(())
    };
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        timed(&mut Times::default())?;
    }
    let (mut times, start) = (Times::default(), Instant::now());
    while times.steps.len() < LEAST_STEPS || start.elapsed().as_secs_f64() < seconds {
        timed(&mut times)?;
    }
    Ok(times)
}

impl Times {
    /// Adds the ops of one step; every step has the same ones.
    fn add_ops(&mut self, events: &[Event]) {
        let first = self.ops.is_empty();
        for (_, times) in &mut self.ops {
            times.push(0.0);
        }
        for Event { op, backward, shape, bytes, time } in events {
            let same = |(of, _): &&mut (OpTime, Vec<f64>)| (of.op, of.backward, &of.shape) == (*op, *backward, shape);
            match self.ops.iter_mut().find(same) {
                Some((of, times)) => {
                    if first {
                        of.count += 1;
                        of.bytes += bytes;
                    }
                    *times.last_mut().expect("a step is under way") += ms(*time);
                }
                None => {
                    let (op, backward, shape, bytes) = (*op, *backward, shape.clone(), *bytes);
                    self.ops.push((OpTime { op, backward, shape, count: 1, bytes, ms: 0.0 }, vec![ms(*time)]));
                }
            }
        }
    }

    fn measurement(mut self, parameters: usize, macs: usize, batch_size: usize, passes: usize) -> Measurement {
        self.steps.sort_by(f64::total_cmp);
        let parts = self.parts.into_iter().map(|(part, mut all)| {
            all.sort_by(f64::total_cmp);
            (part, median(&all))
        });
        let ops = self.ops.into_iter().map(|(op, mut all)| {
            all.sort_by(f64::total_cmp);
            OpTime { ms: median(&all), ..op }
        });
        Measurement {
            parameters,
            macs,
            batch_size,
            passes,
            planned: false,
            parts: parts.collect(),
            ops: ops.collect(),
            steps_ms: self.steps,
        }
    }
}

/// The median of values that rise.
fn median(sorted: &[f64]) -> f64 {
    let (below, above) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    f64::midpoint(below, above)
}

/// The most memory that this process has held so far, in MiB; `None` where the system does not say.
pub fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use gatefold_data::Kind;
    use gatefold_layers::ConvKind;

    use super::*;

    fn config(conv: &str) -> Config {
        let conv = ConvKind::named(conv).unwrap();
        Config { conv, batch_size: 4, lr: 0.01, ..Config::defaults(Kind::Digits) }
    }

    #[test]
    fn a_training_step_is_measured_part_by_part() {
        let measured = measure(&config("mdconv"), Mode::Train, 0.0, false).unwrap();
        assert_eq!(measured.steps_ms.len(), LEAST_STEPS);
        let parts: Vec<_> = measured.parts.iter().map(|(part, _)| *part).collect();
        assert_eq!(parts, ["forward", "loss", "backward", "optimiser", "statistics", "rest"]);
        assert_eq!(measured.parameters, 10_030);
        assert!(measured.min_ms() > 0.0 && measured.min_ms() <= measured.median_ms());
        assert!(measured.median_ms() <= measured.max_ms());
        let (images, flop) = (measured.images_per_second(), 6.0 * measured.macs as f64);
        assert!((measured.gflops() - images * flop / 1e9).abs() < 1e-9 * measured.gflops());
    }

    #[test]
    fn the_ops_of_a_step_are_summed_up_by_name_direction_and_shape() {
        let measured = measure(&config("mdconv"), Mode::Train, 0.0, true).unwrap();
        let stem = |backward| {
            let same = |of: &&OpTime| (of.op, of.backward, &of.shape[..]) == ("conv2d", backward, &[4, 16, 32, 32][..]);
            let [of] = measured.ops.iter().filter(same).collect::<Vec<_>>()[..] else { panic!("{:?}", measured.ops) };
            (of.count, of.bytes, of.ms > 0.0)
        };
        assert_eq!((stem(false), stem(true)), ((1, 4 * 16 * 32 * 32 * 4, true), (1, 4 * 16 * 32 * 32 * 4, true)));
        let means = measured.ops.iter().filter(|of| of.op == "cross_entropy").map(|of| of.count);
        assert_eq!(means.collect::<Vec<_>>(), [1, 1]);
        assert!(measure(&config("mdconv"), Mode::Train, 0.0, false).unwrap().ops.is_empty());
    }

    #[test]
    fn what_runs_twice_in_a_step_is_one_op() {
        let event =
            |ms| Event { op: "relu", backward: false, shape: vec![2], bytes: 8, time: Duration::from_millis(ms) };
        let mut times = Times { steps: vec![1.0], ..Times::default() };
        for step in [[1, 2], [3, 4], [5, 5]] {
            times.add_ops(&step.map(event));
        }
        let ops = times.measurement(0, 0, 1, 3).ops;
        assert_eq!(ops, [OpTime { op: "relu", backward: false, shape: vec![2], count: 2, bytes: 16, ms: 7.0 }]);
    }

    #[test]
    fn the_fold_is_what_is_measured() {
        let macs = |mode| measure(&config("maconv"), mode, 0.0, false).unwrap().macs;
        assert_eq!(macs(Mode::Folded), 1_031_808);
        assert_eq!(macs(Mode::Unfolded), macs(Mode::Train));
        assert!(macs(Mode::Unfolded) > macs(Mode::Folded));
        let planned = |mode| measure(&config("mdconv"), mode, 0.0, false).unwrap().planned;
        assert!(planned(Mode::Folded) && !planned(Mode::Unfolded) && !planned(Mode::Train));
    }

    #[test]
    fn a_step_that_diverges_is_an_error() {
        let wild = Config { lr: 1e30, ..config("static") };
        let error = measure(&wild, Mode::Train, 0.0, false).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
    }

    #[test]
    fn what_does_not_fold_is_refused() {
        let ConvKind::MdConv(mut options) = ConvKind::named("mdconv").unwrap() else { panic!("another kind") };
        options.activation = gatefold_layers::BranchActivation::Relu;
        let relu = Config { conv: ConvKind::MdConv(options), ..config("static") };
        let error = measure(&relu, Mode::Folded, 0.0, false).unwrap_err();
        assert_eq!((error.exit_status(), error.remedy().is_some()), (2, true), "{error}");
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }
}
