"""Language-based Self-Supervision (LSS): an image CLIP adapted to video in language-based action concept spaces."""
