"""Teachers: dataset-level RSR, rankings, adaptive sampling, correlation."""
