"""Dataset card templates."""
