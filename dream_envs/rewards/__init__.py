"""Reward models: functions of a finished Episode, and a small algebra over them."""
