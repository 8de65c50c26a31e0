"""Coverage-guided fuzzing of translate.nat64, and the invariant that it checks."""
