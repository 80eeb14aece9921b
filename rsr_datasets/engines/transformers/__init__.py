"""The engine that runs the student with transformers and torch."""
