"""Starts a run as several processes on one machine."""
