"""What every run logs: rewards, statuses, lengths, entropy and formats, collapse alarm, retention, judge card."""
