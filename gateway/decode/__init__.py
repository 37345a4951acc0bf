"""Payload bytes to readings: routes, decoders, presets."""
