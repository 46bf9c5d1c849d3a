"""How full the memory is, and which streams wait when it is low.

`gauge` reads how much is used: of the cgroup (`cgroup`), the machine or the process. `turns` limits how many large blocks are
made at the same time, and `reservations` lets all processes that share the memory know. `pulls` applies this to one stream, and
`governor` is what an application sets.
"""

from .cgroup import Reading
from .gauge import MemoryGauge, Source
from .governor import MemoryGovernor, State
from .pulls import Pulls
from .turns import Turn, Turns, wait_for_turn

__all__ = [
    "MemoryGauge",
    "MemoryGovernor",
    "Pulls",
    "Reading",
    "Source",
    "State",
    "Turn",
    "Turns",
    "wait_for_turn",
]
