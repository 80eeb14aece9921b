"""Engines: token ids to ranks and surprisals."""
