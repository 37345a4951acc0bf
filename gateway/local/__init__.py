"""The local broker's side: intake of what devices publish, publishing of results."""
