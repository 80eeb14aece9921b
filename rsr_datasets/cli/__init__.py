"""The commands: one a step."""
