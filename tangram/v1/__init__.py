"""The wire contract as Python: generated from proto/ by `make proto`, never edited."""
