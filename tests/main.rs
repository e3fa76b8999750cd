//! Tests of the program as a whole, one binary; each module of `suite` is a topic.

mod suite {
    mod golden;
}
