"""The one training loop of every recipe and what it needs; it knows no model and no data set."""
