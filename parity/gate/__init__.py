"""The gate: every model of a policy is judged before a deployment; the answer is kept as a fact. Light to import."""
