"""Coverage-guided fuzzing of the decoders that read what others wrote, and of the store: `scripts/fuzz`."""
