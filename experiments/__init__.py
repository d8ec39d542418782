"""Many runs: what is asked for (settings), what they read (reads), running (run, launch), results (collect, tables)."""
