"""Trains with combinations of settings."""
