"""The settings of every command: one frozen dataclass each, with the unit in the docstring under each field."""
