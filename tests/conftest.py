"""Fixtures and settings for all tests."""

import os

# Two processes run the suite: threads of both on the same cores would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
