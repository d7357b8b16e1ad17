"""From questions to rollout batches: sources, engine, verifier, stream."""
