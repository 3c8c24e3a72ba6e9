"""Random calls of the library and random settings of runs: each is right, or refused in one line."""
