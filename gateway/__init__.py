"""An MQTT edge gateway: durable buffer, event-time windows, cloud bridge."""

__version__ = "0.1.0"
