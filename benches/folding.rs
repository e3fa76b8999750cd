//! What a training step of one multi-layer site costs expanded and folded, on one thread, over the places of our networks:
//! the figures behind the constants of `Form::Auto`. Prints CSV; `benches/folding.py` fits the constants to it.
//!
//! `cargo bench --bench folding > folding.csv`, or with `-- 2/8` only the second of eight parts of the grid.
//!
//! The site reads a batch norm with its ReLU, as in a network, and a step is forward, backward from a random gradient and
//! all gradients of both. Both forms take turns; of each turn counts the shortest step, of the rounds the median.

use std::hint::black_box;
use std::time::{Duration, Instant};

use gatefold_autograd::profile::profile;
use gatefold_layers::{Activation, BatchNorm2d, ConvKind, Cx, Form, Init, MaConv, MdConv, Site, SiteSpec, TrainedSite};
use gatefold_tensor::Tensor;
use gatefold_tensor::random::randn;

/// Channels in, channels out and the side of the map.
const PLACES: [[usize; 3]; 22] = [
    // SmallNet.
    [16, 16, 32],
    [16, 32, 16],
    [32, 64, 8],
    // MobileNetV2 x0.35 on images of 32 x 32.
    [16, 8, 32],
    [8, 48, 32],
    [48, 8, 32],
    [48, 16, 16],
    [16, 96, 16],
    [96, 16, 16],
    [96, 24, 8],
    [24, 144, 8],
    [144, 24, 8],
    [32, 192, 8],
    [192, 32, 8],
    [192, 56, 4],
    [56, 336, 4],
    [336, 56, 4],
    [336, 112, 4],
    // ShuffleNetV2.
    [24, 58, 32],
    [58, 58, 16],
    [116, 116, 8],
    [232, 232, 4],
];
/// Channels of the branch.
const BRANCHES: [usize; 3] = [8, 20, 40];
/// Samples of a batch.
const BATCHES: [usize; 2] = [16, 128];
const ROUNDS: usize = 3;
/// A turn takes at least so many steps of each form, and so long.
const STEPS: usize = 3;
const TURN: Duration = Duration::from_millis(15);

/// A point of the grid.
#[derive(Clone, Copy)]
struct Point {
    place: [usize; 3],
    m: usize,
    samples: usize,
    gated: bool,
}

fn grid() -> Vec<Point> {
    let mut points = Vec::new();
    for place in PLACES {
        for m in BRANCHES {
            for samples in BATCHES {
                points.extend([false, true].map(|gated| Point { place, m, samples, gated }));
            }
        }
    }
    points
}

/// A site, and the batch norm that it reads.
struct Bench {
    before: BatchNorm2d<f32>,
    site: Box<dyn TrainedSite<f32>>,
}

impl Bench {
    fn new(Point { place: [cin, cout, _], m, gated, .. }: Point, form: Form) -> Self {
        let kind = match gated {
            true => ConvKind::MdConv(MdConv { m, form, ..MdConv::default() }),
            false => ConvKind::MaConv(MaConv { m, form, ..MaConv::default() }),
        };
        let site = kind.build(SiteSpec::pointwise(cin, cout), &Init::new(1)).expect("the options fit the place");
        Bench { before: BatchNorm2d::new(cin), site }
    }

    /// The time of a step.
    fn step(&self, x: &Tensor<f32>, dy: &Tensor<f32>) -> Duration {
        // Backward writes into the gradient that it is given.
        let dy = dy.map(|dy| dy);
        let start = Instant::now();
        let cx = Cx::train();
        let x = cx.input(x.clone(), true);
        let x = self.before.normalise(&cx, &x, None, Activation::Relu).expect("the map fits");
        let y = self.site.forward(&cx, &x, Activation::Relu).expect("the map fits");
        black_box(y.backward_with(dy).expect("the gradient fits"));
        start.elapsed()
    }
}

/// The shortest step of each form in this round, in ms.
fn turn(point: Point) -> [f64; 2] {
    let Point { place: [cin, cout, side], samples, .. } = point;
    let (x, dy) = (randn([samples, cin, side, side], 2), randn([samples, cout, side, side], 3));
    let benches = [Form::Expanded, Form::Folded].map(|form| Bench::new(point, form));
    let mut shortest = [Duration::MAX; 2];
    let (start, mut steps) = (Instant::now(), 0);
    while steps < STEPS || start.elapsed() < TURN {
        for (bench, shortest) in benches.iter().zip(&mut shortest) {
            *shortest = bench.step(&x, &dy).min(*shortest);
        }
        steps += 1;
    }
    shortest.map(|time| 1e3 * time.as_secs_f64())
}

/// Whether `auto` folds here.
fn auto_folds(point: Point) -> bool {
    let Point { place: [cin, cout, side], samples, .. } = point;
    let (x, dy) = (Tensor::zeros([samples, cin, side, side]), Tensor::zeros([samples, cout, side, side]));
    let bench = Bench::new(point, Form::Auto);
    let (_, events) = profile(|| bench.step(&x, &dy));
    events.iter().any(|event| event.op == "folded_site")
}

/// The part of the grid that the arguments ask for.
fn part(points: Vec<Point>) -> Vec<Point> {
    let asked = std::env::args().find_map(|argument| {
        let (part, of) = argument.split_once('/')?;
        Some((part.parse::<usize>().ok()?, of.parse::<usize>().ok()?))
    });
    let Some((part, of)) = asked else { return points };
    assert!((1..=of).contains(&part), "part {part} of {of}");
    points.into_iter().skip(part - 1).step_by(of).collect()
}

fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started");
    pool.install(|| {
        let points = part(grid());
        let rounds: Vec<Vec<[f64; 2]>> =
            (0..ROUNDS).map(|_| points.iter().map(|&point| turn(point)).collect()).collect();
        println!("cin,cout,side,m,samples,gated,expanded_ms,folded_ms,auto_folds");
        for (i, &point) in points.iter().enumerate() {
            let [expanded, folded] = [0, 1].map(|form| {
                let mut of_rounds: Vec<f64> = rounds.iter().map(|round| round[i][form]).collect();
                of_rounds.sort_by(f64::total_cmp);
                of_rounds[ROUNDS / 2]
            });
            let Point { place: [cin, cout, side], m, samples, gated } = point;
            let (gated, auto) = (u8::from(gated), u8::from(auto_folds(point)));
            println!("{cin},{cout},{side},{m},{samples},{gated},{expanded:.4},{folded:.4},{auto}");
        }
    });
}
