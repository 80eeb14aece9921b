"""Which trajectories to keep: selection rules, mixtures, quality signals."""
