"""Optional speed-ups of the transformers engine; each file can be deleted together with its test."""
