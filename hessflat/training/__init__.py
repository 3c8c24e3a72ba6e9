"""From data and a configuration to trained parameters."""
