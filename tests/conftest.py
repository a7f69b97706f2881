"""Fixtures and settings for all tests."""

import os
import signal

# Two processes run the suite: threads of both on the same cores would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets its background jobs ignore SIGINT, and the processes that the tests start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)
