"""Alarms with a state: raised, acknowledged, cleared; silent devices; notifications."""
