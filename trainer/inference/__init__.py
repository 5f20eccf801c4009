"""Trained networks out of a checkpoint, without engines, optimisers or DeepSpeed."""
