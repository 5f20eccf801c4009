"""Commands: each module is a script and calls into `realness.trainer` and `realness.data_pipeline`."""
