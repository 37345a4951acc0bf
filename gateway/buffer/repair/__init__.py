"""Start-up recovery, salvage of damaged files, backups, and the upkeep of a buffer in use."""
