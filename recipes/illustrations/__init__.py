"""Draws the pictures of the guided readings. Every function returns a matplotlib Figure."""
