"""A failure explained: a small example, the module where the models part, likely causes, a folder that shows it."""
