"""Videos -> training sets: LRS2-shaped clips as they are, and raw videos of any kind."""
