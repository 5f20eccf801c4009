"""Images from any collection."""
