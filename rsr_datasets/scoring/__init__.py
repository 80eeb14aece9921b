"""Scoring: rows to columns."""
