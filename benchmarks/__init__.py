"""What the toolkit costs: `python -m benchmarks speed|memory|live --face video.mp4 --audio speech.wav`; `training`."""
