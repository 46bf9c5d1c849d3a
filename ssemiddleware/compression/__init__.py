"""Compressed event streams: the option `Compress`, the choice of responses to compress, and the encoders.

Nothing here does I/O, starts a thread or reads a clock.
"""

from .encoders import Compress, Encoder, encoders
from .negotiation import encoding_for, negotiate

__all__ = ["Compress", "Encoder", "encoders", "encoding_for", "negotiate"]
