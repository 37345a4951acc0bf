"""A first configuration out of what was heard on a broker: `gateway init`."""
