"""Pure game cores, one file a game: who speaks when, who sees what, what happened."""
