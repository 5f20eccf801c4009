"""Using the trained networks of a checkpoint, without engines, optimisers or DeepSpeed."""
