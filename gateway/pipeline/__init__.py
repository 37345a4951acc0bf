"""Pipeline from messages to durable events and aggregates, inside the writer's transaction."""
