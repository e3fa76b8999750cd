//! Vectors of elements, and kernels written once for every instruction set.
//!
//! A kernel is a value that implements [`Kernel`]: its `run` is generic in the vector. [`dispatch`] looks at the
//! processor once and runs it with the widest vector there is: AVX-512, AVX2 with FMA, or arrays that any processor
//! can work on. `run` and what it calls must be `#[inline(always)]`: only code that ends up inside the function that
//! switches the instructions on may use them.

#![allow(unsafe_code, reason = "vector loads and stores go through raw pointers")]

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use portable::Portable;

use crate::Real;

/// A register of elements. Every method but [`interleave`](Vector::interleave) works lane by lane.
pub trait Vector<T: Real>: Copy + Send + Sync {
    /// Elements of a register.
    const LANES: usize;
    /// Registers of the processor: how large a tile of accumulators may be.
    const REGISTERS: usize;
    /// Whether the loops over the most usual channels are compiled once more, with their number known. Then the compiler knows
    /// how far apart all things lie and how often a loop turns; to work that out takes up to a tenth of the time of a short
    /// block. Compiling takes time too: for the widest vectors only.
    const KNOWS: bool = Self::LANES == 16;

    /// `value` in every lane.
    fn splat(value: T) -> Self;

    /// `LANES` elements.
    /// # Safety
    /// `LANES` elements from `from` on must be readable.
    unsafe fn load(from: *const T) -> Self;

    /// Stores all lanes.
    /// # Safety
    /// `LANES` elements from `to` on must be writable.
    unsafe fn store(self, to: *mut T);

    /// The first `count ≤ LANES` elements, zeros behind them.
    /// # Safety
    /// `count` elements from `from` on must be readable.
    unsafe fn load_first(from: *const T, count: usize) -> Self;

    /// Stores the first `count ≤ LANES` elements.
    /// # Safety
    /// `count` elements from `to` on must be writable.
    unsafe fn store_first(self, to: *mut T, count: usize);

    /// Asks for the memory at `from` ahead of time. Any address will do.
    fn prefetch(from: *const T);

    /// The same for memory that will be written.
    fn prefetch_write(to: *const T);

    /// Stores past the caches; others see it behind a `fence`.
    ///
    /// # Safety
    /// [`LANES`](Self::LANES) elements must be writable, and begin at a multiple of their size.
    unsafe fn stream(self, to: *mut T);

    /// `self + other`.
    fn add(self, other: Self) -> Self;
    /// `self − other`.
    fn sub(self, other: Self) -> Self;
    /// `self · other`.
    fn mul(self, other: Self) -> Self;
    /// `self · factor + summand`, rounded once where the processor can.
    fn mul_add(self, factor: Self, summand: Self) -> Self;
    /// The larger one; a NaN in `self` stays.
    fn max(self, other: Self) -> Self;
    /// The smaller one; a NaN in `self` stays.
    fn min(self, other: Self) -> Self;
    /// `self` where `x > low` or `x` is NaN, else 0.
    fn keep_above(self, x: Self, low: Self) -> Self;
    /// `self` where `x < high` or `x` is NaN, else 0.
    fn keep_below(self, x: Self, high: Self) -> Self;
    /// `a_0 b_0 a_1 b_1 …`, two vectors long.
    fn interleave(self, other: Self) -> [Self; 2];
}

/// A computation generic in the vector it uses.
pub trait Kernel<T: Real> {
    /// What it computes.
    type Output;
    /// Whether it is run by vectors alone that [know](Vector::KNOWS) usual channels: for others it need not be compiled.
    const KNOWING: bool = false;
    /// Implement with `#[inline(always)]`.
    fn run<V: Vector<T>>(self) -> Self::Output;
}

/// Runs `kernel` with the widest vector of this processor.
pub fn dispatch<T: Real, K: Kernel<T>>(kernel: K) -> K::Output {
    T::dispatch(kernel)
}

/// [`Kernel::run`], compiled for vectors that may come to it.
#[inline(always)]
fn run<T: Real, V: Vector<T>, K: Kernel<T>>(kernel: K) -> K::Output {
    if const { K::KNOWING && !V::KNOWS } {
        unreachable!("the kernel knows its channels, vectors do not");
    } else {
        kernel.run::<V>()
    }
}

/// `pointer`, of which the compiler knows nothing more. From the strides of a loop it would work out a register for each
/// row of a tile, and keep those that it has no register for in memory.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through the pointer")]
pub(crate) fn opaque<T>(pointer: *const T) -> *const T {
    #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
    let pointer = {
        let mut same = pointer;
        // SAFETY: not one instruction.
        unsafe { std::arch::asm!("/* {0} */", inout(reg) same, options(pure, nomem, nostack, preserves_flags)) };
        same
    };
    pointer
}

/// What the dispatch needs of an element type; sealed away behind [`Real`].
pub trait Dispatch: Sized {
    /// Runs `kernel` with the widest vector for this type.
    fn dispatch<K: Kernel<Self>>(kernel: K) -> K::Output
    where
        Self: Real;
}

macro_rules! dispatch {
    ($t:ty, $wide:ident, $narrow:ident) => {
        impl Dispatch for $t {
            fn dispatch<K: Kernel<$t>>(kernel: K) -> K::Output {
                // Never inlined: see `compiled`.
                #[cfg(all(target_arch = "x86_64", not(miri)))]
                {
                    #[inline(never)]
                    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]
                    fn with_avx512<K: Kernel<$t>>(kernel: K) -> K::Output {
                        run::<$t, x86::$wide, K>(kernel)
                    }
                    #[inline(never)]
                    #[target_feature(enable = "avx2,fma")]
                    fn with_avx2<K: Kernel<$t>>(kernel: K) -> K::Output {
                        run::<$t, x86::$narrow, K>(kernel)
                    }
                    match level() {
                        // SAFETY: the processor has these instructions.
                        Level::Avx512 => return unsafe { with_avx512(kernel) },
                        // SAFETY: the processor has these instructions.
                        Level::Avx2 => return unsafe { with_avx2(kernel) },
                        Level::Portable => {}
                    }
                }
                #[inline(never)]
                fn portable<K: Kernel<$t>>(kernel: K) -> K::Output {
                    run::<$t, Portable<$t>, K>(kernel)
                }
                portable(kernel)
            }
        }
    };
}

dispatch!(f32, F32x16, F32x8);
dispatch!(f64, F64x8, F64x4);

/// The instructions in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 512-bit vectors.
    Avx512,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// What the compiler makes of arrays.
    Portable,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Level::Avx512 => "AVX-512",
            Level::Avx2 => "AVX2",
            Level::Portable => "portable",
        })
    }
}

/// The instructions that kernels use on this processor. `GATEFOLD_SIMD=avx2` or `portable` asks for narrower ones.
pub fn level() -> Level {
    use std::sync::OnceLock;
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let wanted = std::env::var("GATEFOLD_SIMD").unwrap_or_default();
        match (detect(), wanted.as_str()) {
            (Level::Avx512, "avx2") => Level::Avx2,
            (_, "portable") => Level::Portable,
            (best, _) => best,
        }
    })
}

fn detect() -> Level {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw");
        if avx2 && avx512 {
            return Level::Avx512;
        }
        if avx2 {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// Whether [`dispatch`] runs kernels with vectors that [know](Vector::KNOWS) usual channels.
pub(crate) fn knows<T: Real>() -> bool {
    traits::<T>().1
}

/// [Registers](Vector::REGISTERS) of the vectors that [`dispatch`] runs kernels with.
pub(crate) fn registers<T: Real>() -> usize {
    traits::<T>().0
}

fn traits<T: Real>() -> (usize, bool) {
    struct Ask;
    impl<T: Real> Kernel<T> for Ask {
        type Output = (usize, bool);
        #[inline(always)]
        fn run<V: Vector<T>>(self) -> (usize, bool) {
            (V::REGISTERS, V::KNOWS)
        }
    }
    dispatch::<T, _>(Ask)
}

/// Whether stores past the caches are the faster ones for maps that no cache holds: on AMD's processors (Zen 4: a copy of
/// 8 MiB in 0.46 instead of 0.54 ms), not on Intel's (Cascade Lake: 1.52 instead of 1.41 ms).
pub(crate) fn streams() -> bool {
    use std::sync::OnceLock;
    static STREAMS: OnceLock<bool> = OnceLock::new();
    // They are right everywhere, and tests try them wherever they run.
    *STREAMS.get_or_init(|| level() != Level::Portable && (cfg!(test) || vendor() == *b"AuthenticAMD"))
}

/// The processor's maker, as it says itself.
fn vendor() -> [u8; 12] {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        #[allow(unused_unsafe, reason = "safe from Rust 1.94 on")]
        // SAFETY: every processor of the family has the instruction.
        let of = unsafe { std::arch::x86_64::__cpuid(0) };
        let mut name = [0; 12];
        name.chunks_exact_mut(4)
            .zip([of.ebx, of.edx, of.ecx])
            .for_each(|(part, of)| part.copy_from_slice(&of.to_le_bytes()));
        return name;
    }
    #[allow(unreachable_code, reason = "of other processors nothing is known")]
    [0; 12]
}

/// Waits until what was streamed is in its place.
pub(crate) fn fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: every processor of the family has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every method against plain arithmetic, with this vector.
    struct Check;

    impl Kernel<f32> for Check {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector<f32>>(self) {
            check::<f32, V>();
        }
    }

    impl Kernel<f64> for Check {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector<f64>>(self) {
            check::<f64, V>();
        }
    }

    fn check<T: Real, V: Vector<T>>() {
        let n = V::LANES;
        let a: Vec<T> = (0..n).map(|i| T::of(i as f64 - 2.5)).collect();
        let b: Vec<T> = (0..n).map(|i| T::of(1.5 - (i % 3) as f64)).collect();
        // SAFETY: both hold LANES elements.
        let (va, vb) = unsafe { (V::load(a.as_ptr()), V::load(b.as_ptr())) };
        let all = |v: V| {
            let mut out = vec![T::zero(); n];
            // SAFETY: LANES elements.
            unsafe { v.store(out.as_mut_ptr()) };
            out
        };
        let each = |f: &dyn Fn(T, T) -> T| a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect::<Vec<_>>();
        assert_eq!(all(va.add(vb)), each(&|a, b| a + b));
        assert_eq!(all(va.sub(vb)), each(&|a, b| a - b));
        assert_eq!(all(va.mul(vb)), each(&|a, b| a * b));
        assert_eq!(all(va.mul_add(vb, va)), each(&|a, b| a * b + a));
        assert_eq!(all(va.max(vb)), each(&|a, b| if a > b { a } else { b }));
        assert_eq!(all(va.min(vb)), each(&|a, b| if a < b { a } else { b }));
        let half = T::of(0.5);
        assert_eq!(all(va.keep_above(vb, V::splat(half))), each(&|a, b| if b > half { a } else { T::zero() }));
        assert_eq!(all(va.keep_below(vb, V::splat(half))), each(&|a, b| if b < half { a } else { T::zero() }));
        assert!(all(va.keep_above(vb, vb)).iter().chain(&all(va.keep_below(vb, vb))).all(|&v| v == T::zero()));
        let nan = V::splat(T::nan());
        assert!(all(nan.max(va)).iter().chain(&all(nan.min(va))).all(|v| v.is_nan()));
        assert_eq!((all(va.keep_above(nan, vb)), all(va.keep_below(nan, vb))), (a.clone(), a.clone()));
        #[repr(align(64))]
        struct Line<T>([T; 16]);
        let mut line = Line([T::zero(); 16]);
        // SAFETY: a line holds LANES elements and begins at a multiple of their size.
        unsafe { va.stream(line.0.as_mut_ptr()) };
        fence();
        assert_eq!(line.0[..n], a);
        let interleaved = va.interleave(vb).map(all).concat();
        assert_eq!(interleaved, a.iter().zip(&b).flat_map(|(&a, &b)| [a, b]).collect::<Vec<_>>());
        for count in 0..=n {
            // SAFETY: count elements are inside.
            let first = all(unsafe { V::load_first(a.as_ptr(), count) });
            assert_eq!(first[..count], a[..count]);
            assert!(first[count..].iter().all(|&v| v == T::zero()));
            let mut out = b.clone();
            // SAFETY: count elements are inside.
            unsafe { va.store_first(out.as_mut_ptr(), count) };
            assert_eq!((&out[..count], &out[count..]), (&a[..count], &b[count..]));
        }
    }

    #[test]
    fn every_vector_does_the_arithmetic() {
        dispatch::<f32, _>(Check);
        dispatch::<f64, _>(Check);
        Kernel::<f32>::run::<Portable<f32>>(Check);
        Kernel::<f64>::run::<Portable<f64>>(Check);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if level() == Level::Avx512 {
            #[target_feature(enable = "avx2,fma")]
            fn narrow() {
                check::<f32, x86::F32x8>();
                check::<f64, x86::F64x4>();
            }
            // SAFETY: whoever has AVX-512 has AVX2 and FMA.
            unsafe { narrow() };
        }
    }
}
