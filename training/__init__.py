"""Training: data, losses and the one loop that the three training scripts share."""
