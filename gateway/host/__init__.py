"""The machine and the process on it: control socket, service manager, memory, logs."""
