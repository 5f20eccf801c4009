"""Commands: each module is a script over `realness.trainer` and `realness.data_pipeline`."""
