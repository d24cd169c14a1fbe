"""The embedded dataset: rendered surfaces, their defects, and the three workpiece categories."""
