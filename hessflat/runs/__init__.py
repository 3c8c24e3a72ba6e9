"""One run folder, from its configuration to its last measurement."""
