"""The training loop of every recipe and what it needs; it depends on no model, no data set and not on the Hub."""
