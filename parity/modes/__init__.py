"""Dispatch modes around the original: recorded draws, true float64, perturbed operands, another order of equals."""
