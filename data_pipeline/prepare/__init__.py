"""Any image collection to validated, resized, packed shards."""
