"""Intel Loihi through Lava: the worker runs in a Python 3.10 environment of its own and speaks through files."""
