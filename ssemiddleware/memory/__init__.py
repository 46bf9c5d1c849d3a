"""How full the memory is, and which streams wait when it is low.

`gauge` reads how much is used: of the cgroup (`cgroup`), the machine or the process. `governor` makes streams wait. `turns`
limits how many large blocks are made at the same time, and `reservations` lets all processes that share the memory know.
`pulls` applies this to one stream.
"""

from .cgroup import Reading
from .gauge import MemoryGauge, Source
from .governor import MemoryGovernor, State, give_back_memory
from .pulls import Pulls
from .turns import Turn, Turns, wait_for_memory

__all__ = [
    "MemoryGauge",
    "MemoryGovernor",
    "Pulls",
    "Reading",
    "Source",
    "State",
    "Turn",
    "Turns",
    "give_back_memory",
    "wait_for_memory",
]
