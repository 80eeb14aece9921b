"""Score columns in Arrow tables: names, types, statuses, provenance records, and reading them back."""
