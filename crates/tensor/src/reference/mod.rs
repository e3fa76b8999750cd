//! The definitions: naive loops straight from the equations, no cleverness, ever. Slow, and the oracle of every test.
