"""Small helpers without any notion of scoring."""
