"""How fast event streams are under `SSEMiddleware`, and what it costs: measured against the same server without it.

    python -m benchmarks                    # all, several minutes, on a machine that does nothing else
    python -m benchmarks --short            # see that everything runs; the figures mean nothing
    python -m benchmarks --only inline      # one; this one needs nothing but ssemiddleware's own dependencies
    python -m benchmarks --markdown README.md --plots docs/plots

Bare and wrapped (and the rival) take turns in one run. A result is a ratio or a difference of the two within a turn, the
median of all turns, with the lowest and the highest beside it. Targets are said to be met or missed; nothing fails.
"""
