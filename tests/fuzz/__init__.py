"""Coverage-guided fuzzing of translate.nat64, and the invariant and model that it checks."""
