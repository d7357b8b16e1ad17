"""From a configuration to the parts of a run: its inputs, checked, then its folder and Trainer."""
