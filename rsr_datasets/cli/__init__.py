"""The command line. Nothing that takes long to import is imported before a command runs."""
