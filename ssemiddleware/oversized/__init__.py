"""What is done to an event that is too large for its readers: `Fold`, `Fragment`, and a watch on what is still too long.

Browsers and clients have limits on the length of a line or of an event, and some take quadratic time below them. `reshaping`
is what all steps have in common; `fold`, `fragment` and `long_lines` have one each; `joiner` and ``client.js`` are for readers.
Nothing here does I/O, starts a thread or reads a clock.
"""

from .fold import Fold
from .fragment import Fragment, asks_for_fragments
from .joiner import FragmentJoiner
from .long_lines import LongLineWatch
from .reshaping import LONG_LINE, OversizedEvents, Reshaping, begins_as_json

__all__ = [
    "LONG_LINE",
    "Fold",
    "Fragment",
    "FragmentJoiner",
    "LongLineWatch",
    "OversizedEvents",
    "Reshaping",
    "asks_for_fragments",
    "begins_as_json",
]
