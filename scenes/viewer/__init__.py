"""Scenes in the browser."""
