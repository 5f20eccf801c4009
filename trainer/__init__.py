"""Training: networks, objectives, the DeepSpeed engines, the loop, checkpoints and reporting."""
