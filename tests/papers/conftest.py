"""What holds for every finding of every test in this folder."""

import pytest
from said_numbers import said_but_not_kept

from papers_to_gpt.papers.experiment import Finding


@pytest.fixture(autouse=True)
def _every_number_that_is_said_is_kept(monkeypatch):
    """Fails where an experiment says a number that is in none of its files."""
    plain = Finding.__init__

    def checked(self, *arguments, **named):
        plain(self, *arguments, **named)
        assert said_but_not_kept(self) == [], self.verdict.reason

    monkeypatch.setattr(Finding, "__init__", checked)
