"""Real proxies in front of a real server: a file for each, and how they are started."""
