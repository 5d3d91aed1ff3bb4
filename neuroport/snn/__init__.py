"""The float spiking network: populations, projections, how it is built from an ANN, encoded, simulated and read."""
