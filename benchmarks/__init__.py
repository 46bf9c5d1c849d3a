"""How fast event streams are under `SSEMiddleware`, and what it costs: measured against the same server without it.

    python -m benchmarks                    # all, half an hour, on a machine that does nothing else
    python -m benchmarks --short            # see that everything runs; the figures mean nothing
    python -m benchmarks --only event-cost  # one; this one needs no server
    python -m benchmarks --markdown docs/benchmarks.md --summary README.md --plots benchmarks/plots

Bare and wrapped (and the rival) take turns in one run. A result is a ratio or a difference of the two within a turn, the
median of all turns, with the lowest and the highest beside it. Targets are said to be met or missed; nothing fails.
"""
