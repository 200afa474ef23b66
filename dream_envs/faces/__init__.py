"""One game, four faces: PettingZoo AEC, PettingZoo Parallel, Gymnasium single-role view, batched vector."""
