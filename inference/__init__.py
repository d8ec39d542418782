"""Finished runs in use: `load` one, ask it about new images, hand it on as a bundle."""
