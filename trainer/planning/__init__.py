"""Estimates before a run starts: memory, floating-point operations, the largest micro-batch."""
