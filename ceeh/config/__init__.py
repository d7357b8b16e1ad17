"""Settings, their rules, and the classes that YAML names."""
