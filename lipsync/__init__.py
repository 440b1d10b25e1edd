"""Inference: frames in and out, boxes over time, compositing, and the pipeline that joins them."""
