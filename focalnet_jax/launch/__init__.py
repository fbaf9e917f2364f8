"""Starts a run in several processes."""
