"""The plain forms: the same mathematics at full length, what the fast code has to equal (tests) and to beat."""
