"""Conversion of any image collection to validated, resized, packed shards."""
