"""The bridge to the cloud broker: claims, frames, acknowledgements, audit records and commands."""
