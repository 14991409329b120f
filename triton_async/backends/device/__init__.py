"""What backends on GPUs share: slots, streams and copies of one instance, and the engine seam they drive."""
