"""The trained network as it arrives: a graph of operators with their weights, and the front ends that read it."""
