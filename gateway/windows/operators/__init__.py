"""The types of windows, one module each: grids (tumbling, hopping), calendars, sessions, and without bounds.

`windows.engine` chooses the operator for a specification; `config.window_model` has the settings of each.
"""
