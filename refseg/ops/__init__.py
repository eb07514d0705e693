"""Pure functions on arrays: masks, boxes, images, files."""
