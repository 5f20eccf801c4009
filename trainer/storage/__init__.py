"""The files of a run folder: atomic writes, configuration, environment, scores and weights."""
