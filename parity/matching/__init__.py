"""How two models nobody mapped correspond: inputs, outputs, parameters; and the runner that answers by it."""
