"""neuroport's Lava processes.

Lava executes every .py file beside a process class when it compiles (lava-nc 0.10.0,
lava/magma/compiler/compiler_graphs.py l.795-905), so this package holds process classes and nothing else.
"""
