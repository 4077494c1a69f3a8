"""Scenes: what people build, edit and keep, and the command line. May use every other package."""
