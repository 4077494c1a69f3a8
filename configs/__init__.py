"""Settings of the command line as plain YAML, one file for each verb: a comment above each key says what it means."""
