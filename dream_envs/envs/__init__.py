"""Game cores, one file a game, and the same game as PettingZoo AEC and Parallel, Gymnasium single role and vector."""
