"""Where true time comes from: NTP servers, a PTP clock, a GPS receiver; and the thread that asks them."""
