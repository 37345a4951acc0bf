"""Windows over what many gateways have sent: the same configuration, the same plugins, more machines."""
