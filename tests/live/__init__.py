"""Live tests: the package under real servers, each on a free port and ended by its own process id."""
