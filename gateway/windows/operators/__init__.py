"""The types of windows: grids, sessions, and windows without bounds."""
