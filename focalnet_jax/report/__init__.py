"""Draws runs as one page."""
