"""Reading: a row to token ids and the positions to score."""
