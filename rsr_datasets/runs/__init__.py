"""Big runs: work units, run folders, resuming, estimates."""
