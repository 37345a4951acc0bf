"""Tools to try a gateway out: a simulated fleet, a TCP proxy that fails, a load generator, the demo."""
