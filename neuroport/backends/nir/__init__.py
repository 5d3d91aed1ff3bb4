"""NIR, the neuromorphic intermediate representation: networks written for other tools, and theirs read."""
