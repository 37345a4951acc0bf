"""Delivery to the cloud: states, pacing, refusals, forecasts. Logic only."""
