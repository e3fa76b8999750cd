//! Vectors of AVX-512 and AVX2.
//!
//! The intrinsics may be called because [`dispatch`](super::dispatch) has made sure of the processor.

use std::arch::x86_64::*;

use super::Vector;

macro_rules! avx512 {
    ($name:ident, $t:ty, $register:ty, $lanes:literal, $mask:ty,
     $set1:ident $loadu:ident $storeu:ident $stream:ident $mask_load:ident $mask_store:ident
     $add:ident $sub:ident $mul:ident $fma:ident $max:ident $min:ident $cmp:ident $keep:ident
     $integer:ty, $permute:ident) => {
        /// A 512-bit register.
        #[derive(Clone, Copy)]
        pub(crate) struct $name($register);

        impl $name {
            #[inline(always)]
            fn first(count: usize) -> $mask {
                debug_assert!(count <= $lanes);
                ((1u32 << count) - 1) as $mask
            }
        }

        // SAFETY of every block: the instructions exist, and pointers are as good as the caller promises.
        impl Vector<$t> for $name {
            const LANES: usize = $lanes;
            const REGISTERS: usize = 32;

            #[inline(always)]
            fn splat(value: $t) -> Self {
                $name(unsafe { $set1(value) })
            }
            #[inline(always)]
            unsafe fn load(from: *const $t) -> Self {
                $name(unsafe { $loadu(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $t) {
                unsafe { $storeu(to, self.0) }
            }
            #[inline(always)]
            unsafe fn load_first(from: *const $t, count: usize) -> Self {
                $name(unsafe { $mask_load(Self::first(count), from) })
            }
            #[inline(always)]
            unsafe fn store_first(self, to: *mut $t, count: usize) {
                unsafe { $mask_store(to, Self::first(count), self.0) }
            }
            #[inline(always)]
            fn prefetch(from: *const $t) {
                unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
            }
            #[inline(always)]
            fn prefetch_write(to: *const $t) {
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(to.cast()) }
            }
            #[inline(always)]
            unsafe fn stream(self, to: *mut $t) {
                unsafe { $stream(to, self.0) }
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                $name(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                $name(unsafe { $sub(self.0, other.0) })
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                $name(unsafe { $mul(self.0, other.0) })
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, summand: Self) -> Self {
                $name(unsafe { $fma(self.0, factor.0, summand.0) })
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                $name(unsafe { $max(other.0, self.0) }) // the instruction hands on a NaN of its second operand
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                $name(unsafe { $min(other.0, self.0) })
            }
            #[inline(always)]
            fn keep_above(self, x: Self, low: Self) -> Self {
                // A sum, not a move: that would be melted into masked loads and stores, which wait for each other.
                $name(unsafe { $keep($cmp::<_CMP_NLE_UQ>(x.0, low.0), self.0, $set1(0.0)) })
            }
            #[inline(always)]
            fn keep_below(self, x: Self, high: Self) -> Self {
                $name(unsafe { $keep($cmp::<_CMP_NGE_UQ>(x.0, high.0), self.0, $set1(0.0)) })
            }
            #[inline(always)]
            fn interleave(self, other: Self) -> [Self; 2] {
                // Elements are counted through both registers.
                const PLACES: [[$integer; $lanes]; 2] = {
                    let mut places = [[0; $lanes]; 2];
                    let mut i = 0;
                    while i < 2 * $lanes {
                        places[i / $lanes][i % $lanes] = (i / 2 + i % 2 * $lanes) as $integer;
                        i += 1;
                    }
                    places
                };
                PLACES.map(|at| unsafe { $name($permute(self.0, _mm512_loadu_si512(at.as_ptr().cast()), other.0)) })
            }
        }
    };
}

avx512!(F32x16, f32, __m512, 16, __mmask16,
    _mm512_set1_ps _mm512_loadu_ps _mm512_storeu_ps _mm512_stream_ps _mm512_maskz_loadu_ps _mm512_mask_storeu_ps
    _mm512_add_ps _mm512_sub_ps _mm512_mul_ps _mm512_fmadd_ps _mm512_max_ps _mm512_min_ps
    _mm512_cmp_ps_mask _mm512_maskz_add_ps
    i32, _mm512_permutex2var_ps);
avx512!(F64x8, f64, __m512d, 8, __mmask8,
    _mm512_set1_pd _mm512_loadu_pd _mm512_storeu_pd _mm512_stream_pd _mm512_maskz_loadu_pd _mm512_mask_storeu_pd
    _mm512_add_pd _mm512_sub_pd _mm512_mul_pd _mm512_fmadd_pd _mm512_max_pd _mm512_min_pd
    _mm512_cmp_pd_mask _mm512_maskz_add_pd
    i64, _mm512_permutex2var_pd);

macro_rules! avx2 {
    ($name:ident, $t:ty, $register:ty, $lanes:literal, $integer:ty,
     $set1:ident $loadu:ident $storeu:ident $stream:ident $mask_load:ident $mask_store:ident
     $add:ident $sub:ident $mul:ident $fma:ident $max:ident $min:ident $cmp:ident $and:ident
     $low:ident $high:ident $halves:ident) => {
        /// A 256-bit register.
        #[derive(Clone, Copy)]
        pub(crate) struct $name($register);

        impl $name {
            #[inline(always)]
            fn first(count: usize) -> __m256i {
                debug_assert!(count <= $lanes);
                // `count` times -1, then zeros: a window of a constant.
                const ONES_ZEROS: [$integer; 2 * $lanes] = {
                    let mut mask = [0; 2 * $lanes];
                    let mut i = 0;
                    while i < $lanes {
                        mask[i] = -1;
                        i += 1;
                    }
                    mask
                };
                unsafe { _mm256_loadu_si256(ONES_ZEROS.as_ptr().add($lanes - count).cast()) }
            }
        }

        // SAFETY of every block: the instructions exist, and pointers are as good as the caller promises.
        impl Vector<$t> for $name {
            const LANES: usize = $lanes;
            const REGISTERS: usize = 16;

            #[inline(always)]
            fn splat(value: $t) -> Self {
                $name(unsafe { $set1(value) })
            }
            #[inline(always)]
            unsafe fn load(from: *const $t) -> Self {
                $name(unsafe { $loadu(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $t) {
                unsafe { $storeu(to, self.0) }
            }
            #[inline(always)]
            unsafe fn load_first(from: *const $t, count: usize) -> Self {
                $name(unsafe { $mask_load(from, Self::first(count)) })
            }
            #[inline(always)]
            unsafe fn store_first(self, to: *mut $t, count: usize) {
                unsafe { $mask_store(to, Self::first(count), self.0) }
            }
            #[inline(always)]
            fn prefetch(from: *const $t) {
                unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
            }
            #[inline(always)]
            fn prefetch_write(to: *const $t) {
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(to.cast()) }
            }
            #[inline(always)]
            unsafe fn stream(self, to: *mut $t) {
                unsafe { $stream(to, self.0) }
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                $name(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                $name(unsafe { $sub(self.0, other.0) })
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                $name(unsafe { $mul(self.0, other.0) })
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, summand: Self) -> Self {
                $name(unsafe { $fma(self.0, factor.0, summand.0) })
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                $name(unsafe { $max(other.0, self.0) }) // the instruction hands on a NaN of its second operand
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                $name(unsafe { $min(other.0, self.0) })
            }
            #[inline(always)]
            fn keep_above(self, x: Self, low: Self) -> Self {
                $name(unsafe { $and($cmp::<_CMP_NLE_UQ>(x.0, low.0), self.0) })
            }
            #[inline(always)]
            fn keep_below(self, x: Self, high: Self) -> Self {
                $name(unsafe { $and($cmp::<_CMP_NGE_UQ>(x.0, high.0), self.0) })
            }
            #[inline(always)]
            fn interleave(self, other: Self) -> [Self; 2] {
                // Each half of the registers on its own, then the first halves and the second ones together.
                unsafe {
                    let (low, high) = ($low(self.0, other.0), $high(self.0, other.0));
                    [$name($halves::<0x20>(low, high)), $name($halves::<0x31>(low, high))]
                }
            }
        }
    };
}

avx2!(F32x8, f32, __m256, 8, i32,
    _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps _mm256_stream_ps _mm256_maskload_ps _mm256_maskstore_ps
    _mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_fmadd_ps _mm256_max_ps _mm256_min_ps
    _mm256_cmp_ps _mm256_and_ps
    _mm256_unpacklo_ps _mm256_unpackhi_ps _mm256_permute2f128_ps);
avx2!(F64x4, f64, __m256d, 4, i64,
    _mm256_set1_pd _mm256_loadu_pd _mm256_storeu_pd _mm256_stream_pd _mm256_maskload_pd _mm256_maskstore_pd
    _mm256_add_pd _mm256_sub_pd _mm256_mul_pd _mm256_fmadd_pd _mm256_max_pd _mm256_min_pd
    _mm256_cmp_pd _mm256_and_pd
    _mm256_unpacklo_pd _mm256_unpackhi_pd _mm256_permute2f128_pd);
