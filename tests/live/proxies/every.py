"""All configurations, in the order of the table."""

from __future__ import annotations

from . import apache, caddy, envoy, haproxy, nginx, node, others
from .configuration import Configuration

CONFIGURATIONS: list[Configuration] = [
    configuration for proxy in (nginx, apache, haproxy, caddy, others, envoy, node) for configuration in proxy.CONFIGURATIONS
]
