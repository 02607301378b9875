"""What the models are asked: distributions, cases, the search for a counterexample, shrinking."""
