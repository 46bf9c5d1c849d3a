"""The commands that watch a stream from outside: `doctor` and `lint`."""
