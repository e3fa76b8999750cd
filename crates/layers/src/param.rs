//! What a layer owns: parameters, which are optimised, and buffers, which are only recorded.

use std::sync::atomic::{AtomicU64, Ordering};

use gatefold_autograd::Var;
use gatefold_tensor::{Real, Tensor};

use crate::Cx;

/// Tells one parameter or buffer from every other while the program runs. Never written anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(u64);

impl Id {
    fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Id(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

macro_rules! owned {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<T: Real> {
            /// The current value.
            pub value: Tensor<T>,
            id: Id,
        }

        impl<T: Real> $name<T> {
            /// With an initial value.
            pub fn new(value: Tensor<T>) -> Self {
                $name { value, id: Id::fresh() }
            }

            /// Which one this is.
            pub fn id(&self) -> Id {
                self.id
            }
        }

        impl<T: Real> Clone for $name<T> {
            /// A copy is another one, with an identity of its own.
            fn clone(&self) -> Self {
                Self::new(self.value.clone())
            }
        }
    };
}

owned! {
    /// A tensor that training optimises.
    Param
}

owned! {
    /// A tensor that training records and never optimises: running statistics.
    Buffer
}

impl<T: Real> Param<T> {
    /// The parameter in the computation of `cx`: a leaf of its tape, the same one at every use.
    pub fn var(&self, cx: &Cx<T>) -> Var<T> {
        cx.leaf(self)
    }
}
