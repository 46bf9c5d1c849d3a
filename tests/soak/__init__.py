"""Minutes of clients that connect and disconnect, while the servers are reloaded and restarted: ``make soak MINUTES=10``."""
