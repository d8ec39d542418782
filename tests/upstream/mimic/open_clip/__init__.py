OWNER = "mimic"
