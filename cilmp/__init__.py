"""The CILMP toolbox: CLIP-like models adapted to medical images with few labels."""
