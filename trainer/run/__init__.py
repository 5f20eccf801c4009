"""The training loop and its parts: data, records, checkpoints, recovery, metrics."""
