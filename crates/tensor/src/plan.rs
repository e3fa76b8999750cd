//! A network that no longer learns, as a plan: a list of steps on maps, kernels packed and memory laid out once.
//!
//! A batch is cut into pieces of a few images, and a piece goes through *all* steps on one thread, while its maps lie in the
//! second-level cache; only pieces are spread over threads, and a single one stays where it is. What an image gives does
//! not depend on the images beside it, so the bits depend neither on the batch nor on the number of threads.

mod memory;
mod step;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

pub use crate::kernels::conv::Kernels;
use crate::kernels::conv::{self, Generated, Geometry, PerSample, Prepared};
use crate::kernels::pending::Rectifier;
use crate::kernels::pool;
use crate::parallel::{parts_mut, ranges, run_tasks};
use crate::{Error, Real, Result, Tensor};
use memory::{Layout, Slots};
use step::Step;

/// Bytes of the maps of a piece: half a second-level cache of today.
const PIECE: usize = 512 << 10;

/// A map in a plan under construction: a stack of `[C, H, W]` an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map(usize);

/// Writes a plan, step after step; every method adds one and returns the map that it makes.
///
/// # Errors
/// All fail as the operation of the same name does where the shapes disagree.
#[derive(Debug)]
pub struct Builder<T: Real> {
    /// `[C, H, W]` of each map; the first one is the input.
    maps: Vec<[usize; 3]>,
    steps: Vec<Step<T>>,
    shared: Option<Map>,
}

impl<T: Real> Builder<T> {
    /// A plan without steps, and its input of `[C, H, W]` an image.
    pub fn new(input: [usize; 3]) -> (Self, Map) {
        (Builder { maps: vec![input], steps: Vec::new(), shared: None }, Map(0))
    }

    /// `[C, H, W]` of a map.
    pub fn shape(&self, x: Map) -> [usize; 3] {
        self.maps[x.0]
    }

    /// Sets the map that the layers of a block share beside its input; returns the one before.
    pub fn share(&mut self, map: Option<Map>) -> Option<Map> {
        std::mem::replace(&mut self.shared, map)
    }

    /// The map that the layers of the block at hand share, if there is one.
    pub fn shared(&self) -> Option<Map> {
        self.shared
    }

    fn push(&mut self, shape: [usize; 3], step: impl FnOnce(Map) -> Step<T>) -> Map {
        let y = Map(self.maps.len());
        self.maps.push(shape);
        self.steps.push(step(y));
        y
    }

    /// A convolution, (conv.1), and the rectifier behind it.
    pub fn conv(
        &mut self,
        x: Map,
        w: &Tensor<T>,
        b: Option<&Tensor<T>>,
        geo: &Geometry,
        rectifier: Rectifier,
    ) -> Result<Map> {
        let conv = Prepared::new(w, b, geo, self.shape(x), rectifier)?;
        Ok(self.push(conv.output(), |y| Step::Conv { conv, x, y }))
    }

    /// A convolution whose kernels are composed by the gates `a [m, 1, 1]` of each image, and the rectifier behind it.
    pub fn generated_conv(
        &mut self,
        x: Map,
        a: Map,
        kernels: &Kernels<'_, T>,
        geo: &Geometry,
        rectifier: Rectifier,
    ) -> Result<Map> {
        let conv = Generated::new(kernels, geo, self.shape(x), rectifier)?;
        self.expect("generated_conv2d", "a", a, [conv.gates(), 1, 1])?;
        let scratch = Map(self.maps.len());
        self.maps.push([conv.scratch(), 1, 1]); // one would do for all images
        Ok(self.push(conv.output(), |y| Step::GeneratedConv { conv, x, a, scratch, y }))
    }

    /// A convolution with the kernels `w` of each image, `O·kh·kw·C/g` values in memory order, their extents `kernels
    /// [O,C/g,kh,kw]`; a bias for all images and the rectifier behind it.
    pub fn conv_per_sample(
        &mut self,
        x: Map,
        (w, kernels): (Map, [usize; 4]),
        b: &Tensor<T>,
        geo: &Geometry,
        rectifier: Rectifier,
    ) -> Result<Map> {
        let conv = PerSample::new(kernels, b, geo, self.shape(x), rectifier)?;
        self.expect("conv2d_per_sample", "w", w, [conv.weights(), 1, 1])?;
        let scratch = Map(self.maps.len());
        self.maps.push([conv.scratch(), 1, 1]); // one would do for all images
        Ok(self.push(conv.output(), |y| Step::SampleConv { conv, x, w, scratch, y }))
    }

    /// A fully connected layer of a map of one position, (linear.1), and the rectifier behind it.
    pub fn linear(&mut self, x: Map, w: &Tensor<T>, b: Option<&Tensor<T>>, rectifier: Rectifier) -> Result<Map> {
        let conv = conv::linear(w, b, self.shape(x), rectifier)?;
        Ok(self.push(conv.output(), |y| Step::Conv { conv, x, y }))
    }

    /// The mean of each channel, `[C, H, W]` → `[C, 1, 1]`, (pool.1).
    pub fn global_avg_pool(&mut self, x: Map) -> Map {
        let [c, ..] = self.shape(x);
        self.push([c, 1, 1], |y| Step::Mean { x, y })
    }

    /// The maximum of each window, (pool.3).
    pub fn max_pool(&mut self, x: Map, window: &pool::Window) -> Result<Map> {
        let [c, h, w] = self.shape(x);
        let output = window.output([h, w])?;
        Ok(self.push([c, output[0], output[1]], |y| Step::MaxPool { window: *window, x, y }))
    }

    /// 1/(1 + e⁻ˣ), (act.3).
    pub fn sigmoid(&mut self, x: Map) -> Map {
        self.push(self.shape(x), |y| Step::Sigmoid { x, y })
    }

    /// The softmax over the channels of a map of one position, (softmax.1).
    pub fn softmax(&mut self, x: Map, temperature: f64) -> Result<Map> {
        const OP: &str = "softmax";
        let [m, ..] = self.shape(x);
        self.expect(OP, "x", x, [m, 1, 1])?;
        let tau = T::of(temperature);
        if !(tau > T::zero() && tau.is_finite()) {
            return Err(Error::invalid(OP, format!("the temperature must be positive and finite, got {temperature}")));
        }
        Ok(self.push([m, 1, 1], |y| Step::Softmax { tau, x, y }))
    }

    /// Each channel of `x` times its factor in `a [C, 1, 1]`.
    pub fn scale(&mut self, x: Map, a: Map) -> Result<Map> {
        let shape = self.shape(x);
        self.expect("mul", "a", a, [shape[0], 1, 1])?;
        Ok(self.push(shape, |y| Step::Scale { x, a, y }))
    }

    /// The sum of two maps, and the rectifier behind it.
    pub fn add(&mut self, x: Map, with: Map, rectifier: Rectifier) -> Result<Map> {
        let shape = self.shape(x);
        self.expect("add", "b", with, shape)?;
        Ok(self.push(shape, |y| Step::Add { x, with, rectifier, y }))
    }

    /// Some channels of each map given, one after the other: a channel split, a concatenation, a shuffle.
    pub fn gather(&mut self, channels: &[(Map, usize)]) -> Result<Map> {
        const OP: &str = "gather";
        let Some(&(first, _)) = channels.first() else {
            return Err(Error::invalid(OP, "a map has at least one channel"));
        };
        let [_, h, w] = self.shape(first);
        for &(x, channel) in channels {
            let [c, ..] = self.shape(x);
            self.expect(OP, "x", x, [c.max(channel + 1), h, w])?;
        }
        Ok(self.push([channels.len(), h, w], |y| Step::Gather { channels: channels.to_vec(), y }))
    }

    fn expect(&self, op: &'static str, arg: &'static str, x: Map, expected: [usize; 3]) -> Result<()> {
        let got = self.shape(x);
        if got == expected { Ok(()) } else { Err(Error::shape(op, arg, format!("{expected:?} an image"), &got)) }
    }

    /// The plan that makes `output` of the input.
    pub fn finish(self, output: Map) -> Plan<T> {
        let lens: Vec<usize> = self.maps.iter().map(|map| map.iter().product()).collect();
        let layout = Layout::new(&lens, &self.steps, output);
        let images = (PIECE / size_of::<T>() / layout.elements().max(1)).max(1);
        let work = self.steps.iter().map(|step| step.work(&lens)).fold(0, usize::saturating_add);
        Plan {
            input: self.maps[0],
            output,
            output_len: lens[output.0],
            shapes: self.maps,
            steps: self.steps,
            layout,
            images,
            work,
            idle: Mutex::new(Vec::new()),
        }
    }
}

/// A plan, ready to run.
#[derive(Debug)]
pub struct Plan<T: Real> {
    input: [usize; 3],
    output: Map,
    output_len: usize,
    shapes: Vec<[usize; 3]>,
    steps: Vec<Step<T>>,
    layout: Layout,
    /// Images of a piece.
    images: usize,
    /// Multiply-adds of an image.
    work: usize,
    /// Memory of pieces that nobody runs now.
    idle: Mutex<Vec<Slots<T>>>,
}

impl<T: Real> Plan<T> {
    /// `x [N,C,H,W]` → `[N,…]`, the channels of the last map.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images are not those that the plan was made for.
    pub fn run(&self, x: &Tensor<T>) -> Result<Tensor<T>> {
        let [n, c, h, w] = x.dims("plan", "x")?;
        if [c, h, w] != self.input {
            return Err(Error::shape(
                "plan",
                "x",
                format!("[N, {}, {}, {}]", self.input[0], self.input[1], self.input[2]),
                x.shape(),
            ));
        }
        let mut y = Tensor::any([n, self.output_len]);
        let of_x = c * h * w;
        let pieces = n.div_ceil(self.images);
        if n == 0 {
            return Ok(y);
        }
        if pieces == 1 {
            self.run_piece(x.as_slice(), n, y.as_mut_slice());
            return Ok(y);
        }
        let ranges = ranges(n, pieces);
        let parts = parts_mut(y.as_mut_slice(), &ranges, self.output_len);
        let tasks = ranges.into_iter().zip(parts).collect();
        run_tasks(tasks, n.saturating_mul(self.work), |(images, y)| {
            self.run_piece(&x.as_slice()[images.start * of_x..images.end * of_x], images.len(), y);
        });
        Ok(y)
    }

    /// All steps for some images.
    fn run_piece(&self, x: &[T], images: usize, y: &mut [T]) {
        let mut slots = self.lock().pop().unwrap_or_else(|| Slots::new(&self.layout, self.images));
        for step in &self.steps {
            step.run(&mut slots.view(&self.layout, x, images), &self.shapes);
        }
        y.copy_from_slice(slots.view(&self.layout, x, images).read(self.output));
        self.lock().push(slots);
    }

    /// A panic elsewhere cannot leave the list half changed, so a poisoned lock is as good as any.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Slots<T>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
