"""Everything that speaks MQTT. The only package that imports paho and amqtt."""
