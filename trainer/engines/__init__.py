"""Networks with their optimisers: the `Player` protocol, and engines with and without DeepSpeed."""
