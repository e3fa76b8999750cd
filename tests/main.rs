//! Tests of the program as a whole, one binary; each module of `suite` is a topic.

mod suite {
    mod annealing;
    mod broken_input;
    mod cifar10;
    mod configuration;
    mod determinism;
    mod divergence;
    mod golden;
    mod import;
    mod initial_values;
    mod kinds;
    mod program;
    mod recipes;
    mod reparameterised;
    mod resume;
    mod sabotage;
    mod training_options;
}
