"""The stages beyond structure and precision, one file each: `judge_x(pair, ledger, coverage)`."""
