"""Original files and the configs inside them: read as data, never executed."""
