"""The command `export`: models in the formats of other tools, each compared with the model by the tool itself."""
