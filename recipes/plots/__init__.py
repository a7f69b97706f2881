"""Draws what models do and how they trained. Every function takes arrays and returns a matplotlib Figure."""
