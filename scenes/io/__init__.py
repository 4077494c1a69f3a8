"""Scenes read from and written to files: one module a format, chosen by the suffix of a name."""
