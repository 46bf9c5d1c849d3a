"""What several servers' files ask about a response's headers."""

from __future__ import annotations

import pytest

from ssemiddleware.servers.writing import has_length_or_encoding

GZIP, TYPE = ("Content-Encoding", "gzip"), ("Content-Type", "text/event-stream")


@pytest.mark.parametrize(
    ("headers", "ours", "expected"),
    [
        ([TYPE], "", False),
        ([TYPE, GZIP], "", True),
        ([TYPE, GZIP], "gzip", False),
        ([TYPE, ("content-encoding", "gzip")], "gzip", False),
        ([TYPE, GZIP, GZIP], "gzip", True),
        ([TYPE, ("Content-Encoding", "gzip, br")], "gzip", True),
        ([TYPE, GZIP, ("content-length", "7")], "gzip", True),
        ([TYPE], "gzip", True),
    ],
)
def test_only_a_response_in_our_own_encoding_may_be_written_to(
    headers: list[tuple[str, str]], ours: str, expected: bool
) -> None:
    assert has_length_or_encoding(headers, ours) is expected
