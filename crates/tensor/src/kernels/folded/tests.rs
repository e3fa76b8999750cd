//! The folded form against the expanded one written in plain loops, in f64 and f32; gradients against central
//! differences.
