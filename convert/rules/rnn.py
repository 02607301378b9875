"""Rules: rnn."""
