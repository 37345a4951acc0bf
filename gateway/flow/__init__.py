"""Flow control: bandwidth, load, sampling and the memory budget. Logic only."""
