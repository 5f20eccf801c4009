"""The training loop and what only it uses: data, records, checkpoints, recovery, metrics."""
