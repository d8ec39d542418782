"""The plain forms: the same mathematics written out at full length, what the fast code has to equal (tests) and beat."""
