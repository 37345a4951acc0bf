"""Sources of true time (NTP servers, a PTP clock, a GPS receiver), and the thread that asks them."""
