"""What becomes of an event on its way to the cloud: states, pacing, refusals, forecasts. Logic only."""
