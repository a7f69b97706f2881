"""A page on which anyone can try trained models, and the functions that it calls, which need no page."""
