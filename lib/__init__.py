"""Language-tied self-supervision: an image CLIP adapted to video in action concept spaces."""
