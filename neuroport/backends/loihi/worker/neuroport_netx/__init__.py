"""What is connected to a network that netx has built: recorders.

Lava executes every file in the folder of a process class, so nothing else lies here.
"""
