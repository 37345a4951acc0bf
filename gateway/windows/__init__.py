"""Event-time windows: assignment, watermarks, triggers, lateness, state. Logic only."""
