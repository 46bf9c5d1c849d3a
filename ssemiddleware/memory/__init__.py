"""How full the memory is, and which streams go on meanwhile.

`gauge` reads it, from the cgroup (`cgroup`), the machine or the process; `governor` makes streams wait; `turns` lets as many
large blocks be made at the same time as memory suffices for, in view of other processes (`reservations`).
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
