"""From the raw download of a set to its split: one function a layout, one table of them (`table.PREPARERS`)."""
