"""Networks with their optimisers: `TrainableNetwork`, and engines with and without DeepSpeed."""
