"""The settings of every script: plain dataclasses that import nothing heavy, so that `--help` answers at once."""
